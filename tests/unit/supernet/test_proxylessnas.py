"""ProxylessNAS: closed forms of its gradient estimators, paths of weights, penalties; resumed to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import equal, final, resumed, trainer_of
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import LayerChoice
from archsearch_strategies.algorithms.proxylessnas import Baseline, ProxylessNASTrainer, gate_gradient

QUICK = {"warmupEpochs": 1, "architectureEvery": 1}


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Toy(nn.Module):
    """One choice of three factors before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"one": Scale(1.0), "two": Scale(2.0), "three": Scale(3.0)}, label="op")
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.op(images.flatten(1)))
        return out


def test_the_gradient_of_a_pair_is_that_of_its_binarised_softmax() -> None:
    logits = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
    gates = torch.tensor([0.7, -1.3], dtype=torch.float64)
    # dL/d(alpha_k) = sum_m dL/dg_m dq_m/d(alpha_k): exactly the gradient of a loss linear in q with these coefficients.
    (expected,) = torch.autograd.grad((logits.softmax(0) * gates).sum(), logits)
    assert torch.allclose(gate_gradient(logits.detach(), gates), expected, atol=1e-12)


def test_a_gate_step_moves_the_pair_by_the_losses_of_its_outputs(tmp_path: Path) -> None:
    trainer: Any = trainer_of(ProxylessNASTrainer, QUICK, tmp_path, build=Toy)
    with torch.no_grad():
        trainer.alphas["op"].copy_(torch.tensor([0.5, 0.1, -0.3]))
    before = trainer.alphas["op"].detach().clone()
    seen: dict[str, Any] = {}
    descend = trainer._descend
    trainer._descend = lambda pairs, gates: (seen.update(pair=pairs["op"], gate=gates["op"]), descend(pairs, gates))
    trainer.gate_step()
    pair = list(seen["pair"])
    batch = trainer.bench.architecture_batch()
    opened = None
    for candidate in range(2):  # which gate was open is seen by which loss's gradient it is
        outputs = [trainer.supernet.model.op[i](batch.inputs.flatten(1)).detach() for i in pair]
        x = outputs[candidate].clone().requires_grad_()
        loss = nn.functional.cross_entropy(trainer.supernet.model.head(x), batch.targets)
        (gradient,) = torch.autograd.grad(loss, x)
        expected = torch.stack([(gradient * out).sum() for out in outputs])
        opened = candidate if torch.allclose(seen["gate"], expected, rtol=1e-4) else opened
    assert opened is not None
    after = trainer.alphas["op"].detach()
    (other,) = set(range(3)) - set(pair)
    assert after[other] == before[other]
    assert float(after[pair].logsumexp(0)) == pytest.approx(float(before[pair].logsumexp(0)), abs=1e-6)
    step = gate_gradient(before[pair], seen["gate"])
    moved = after[pair] - before[pair]
    assert torch.sign(moved[0] - moved[1]) == -torch.sign(step[0] - step[1])


def test_reinforce_is_the_gradient_of_the_expected_reward(tmp_path: Path) -> None:
    """On known rewards: the mean over many draws of -(r - b) grad log p is -p_k (r_k - mean reward)."""
    trainer: Any = trainer_of(
        ProxylessNASTrainer, {**QUICK, "estimator": "reinforce", "reinforceSamples": 1000}, tmp_path, build=Toy
    )
    rewards = torch.tensor([0.2, 1.0, -0.5])
    with torch.no_grad():
        trainer.alphas["op"].copy_(torch.tensor([0.3, 0.0, -0.2]))
    trainer.baseline.value, trainer.baseline.decay = 0.3, 1.0  # held still: it only lowers the variance
    trainer.bench.loss = lambda model, batch: -rewards[trainer.supernet.mixture("op").chosen[0]]
    trainer.architect.step = lambda: None
    trainer.reinforce_step()
    chances = trainer.alphas["op"].detach().softmax(0)
    expected = -chances * (rewards - (chances * rewards).sum())
    assert torch.allclose(trainer.alphas["op"].grad, expected, atol=0.05)


def test_the_baseline_is_a_moving_average() -> None:
    baseline = Baseline(0.9)
    assert [baseline.advantage(reward) for reward in (1.0, 2.0)] == [0.0, 1.0]
    assert baseline.value == pytest.approx(1.1)


def test_a_weight_step_trains_one_path_and_moves_no_other_statistics(tmp_path: Path) -> None:
    trainer: Any = trainer_of(ProxylessNASTrainer, {"warmupEpochs": 2}, tmp_path)
    before = {name: value.clone() for name, value in trainer.supernet.model.state_dict().items()}
    trainer.step(0, 0)
    taken = {name: trainer.supernet.mixture(name).chosen for name in trainer.supernet.choices}
    assert all(len(chosen) == 1 for chosen in taken.values())
    changed = {n for n, value in trainer.supernet.model.state_dict().items() if not torch.equal(value, before[n])}
    for name, places in trainer.supernet.layers.items():
        for place in places:
            for i, candidate in enumerate(place.names):
                for key in place[i].state_dict():
                    path = next(p for p, m in trainer.supernet.model.named_modules() if m is place)
                    moved = f"{path}.{candidate}.{key}" in changed
                    assert moved == (i in taken[name]) or "weight" in key or "bias" in key
                    if i not in taken[name]:
                        assert not moved


def test_an_architecture_step_leaves_statistics_and_weights_alone(tmp_path: Path) -> None:
    trainer: Any = trainer_of(ProxylessNASTrainer, QUICK, tmp_path)
    trainer.supernet.model.train()
    before = {name: value.clone() for name, value in trainer.supernet.model.state_dict().items()}
    trainer.gate_step()
    assert all(torch.equal(value, before[name]) for name, value in trainer.supernet.model.state_dict().items())


@pytest.mark.parametrize("estimator", ["gradient", "reinforce"])
def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path, estimator: str) -> None:
    config = {**QUICK, "estimator": estimator, "reinforceSamples": 2}
    undisturbed, found = final(trainer_of(ProxylessNASTrainer, config, tmp_path / "whole"))
    again, also = resumed(ProxylessNASTrainer, config, tmp_path, at=4)
    assert equal(undisturbed, again)
    assert found == also


def test_a_heavy_penalty_wins_over_the_loss(tmp_path: Path) -> None:
    config = {
        "warmupEpochs": 0,
        "architectureEvery": 1,
        "epochs": 6,
        "architectureLearningRate": 0.3,
        "penalties": [{"metric": "params", "weight": 100.0}],
    }
    _, (found,) = final(trainer_of(ProxylessNASTrainer, config, tmp_path))
    assert not any("conv" in decision for decision in found.architecture.values())


def test_a_latency_table_with_a_missing_entry_is_refused_before_time_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"op": {"one": 1.0, "two": 2.0}}))
    config = {"penalties": [{"metric": "latencyMs", "weight": 0.1}], "latencyTable": str(path)}
    with pytest.raises(UserError, match=r"candidate 'three' of choice 'op' None"):
        trainer_of(ProxylessNASTrainer, config, tmp_path, build=Toy)
    path.write_text("{}")
    with pytest.raises(UserError, match="no entry for choice 'op'"):
        trainer_of(ProxylessNASTrainer, config, tmp_path, build=Toy)


def test_a_read_latency_table_counts(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"op": {"one": 1.0, "two": 2.0, "three": 6.0}}))
    config = {"penalties": [{"metric": "latencyMs", "weight": 0.1}], "latencyTable": str(path)}
    trainer: Any = trainer_of(ProxylessNASTrainer, config, tmp_path, build=Toy)
    with torch.no_grad():
        trainer.alphas["op"].zero_()
    assert trainer.penalties.expectations(trainer.alphas.probabilities()) == {"expectedLatencyMs": pytest.approx(3.0)}
