"""ENAS: the controller finds what is rewarded, the answer is the best of several proposals; resumed to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import equal, final, resumed, trainer_of
from torch import Tensor, nn

from archsearch.nn import LayerChoice
from archsearch.space import Categorical, SearchSpace, Subset, Term
from archsearch.supernet.controller import Controller
from archsearch.supernet.optimization import rate
from archsearch.zoo.enas import ENASMacro, ENASMicro
from archsearch_strategies.algorithms.enas import EnasConfig, EnasTrainer, skip_divergence

QUICK = {"controllerSteps": 2, "controllerSamples": 2, "samples": 3, "firstCycle": 1}


def macro() -> ENASMacro:
    return ENASMacro(channels=2, layers=3, input_channels=1)


class Bandit(nn.Module):
    """Two choices of three arms each; what they compute is beside the point."""

    def __init__(self) -> None:
        super().__init__()
        self.arms = nn.Sequential(*(LayerChoice([nn.Linear(64, 64) for _ in range(3)]) for _ in range(2)))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.arms(images.flatten(1)))
        return out


def test_the_controller_solves_a_bandit(tmp_path: Path) -> None:
    """Rewards are known: the best architecture's probability goes to 1, where the logits' bound lets it."""
    config = {
        **QUICK,
        "controllerSamples": 8,
        "controllerLearningRate": 0.03,
        "baselineDecay": 0.9,
        "tanhConstant": 10.0,
        "temperature": 1.0,
    }
    trainer: Any = trainer_of(EnasTrainer, config, tmp_path, build=Bandit)
    best = {"arms.0": "1", "arms.1": "2"}
    trainer.reward = lambda proposal, batch: float(dict(proposal.architecture) == best)
    for number in range(120):
        trainer.controller_step(number)
    with torch.no_grad():
        greedy = trainer.controller.propose(torch.Generator().manual_seed(0), greedy=True)
    assert dict(greedy.architecture) == best
    assert float(greedy.log_probability.exp()) > 0.9


def test_probabilities_of_all_architectures_sum_to_one() -> None:
    space = SearchSpace(
        (
            Categorical("op", ("a", "b")),
            Subset("free", (0, 1), None, when=((Term("op", ("a",)),),)),
            Subset("two", (0, 1, 2), 2),
        )
    )
    controller = Controller(space, size=8)
    seen: dict[str, float] = {}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(600):
            proposal = controller.propose(generator)
            path = f"{dict(proposal.architecture)}{float(proposal.log_probability):.6f}"
            seen[path] = math.exp(float(proposal.log_probability))
    # Two of three are drawn one after another: each pair comes in two orders, each a path of its own.
    assert len(seen) == (4 + 1) * 3 * 2
    assert sum(seen.values()) == pytest.approx(1.0, abs=1e-4)


def test_the_skip_divergence_is_zero_at_its_target() -> None:
    assert float(skip_divergence(torch.full((4,), 0.4), 0.4)) == pytest.approx(0.0, abs=1e-6)
    expected = 0.5 * math.log(0.5 / 0.4) + 0.5 * math.log(0.5 / 0.6)
    assert float(skip_divergence(torch.full((4,), 0.5), 0.4)) == pytest.approx(expected, rel=1e-5)


def test_the_skip_term_brings_the_chances_to_their_target(tmp_path: Path) -> None:
    config = {**QUICK, "controllerSamples": 2, "controllerLearningRate": 0.02, "skipWeight": 5.0, "skipTarget": 0.2}
    trainer: Any = trainer_of(EnasTrainer, config, tmp_path, build=macro)
    trainer.reward = lambda proposal, batch: 0.0
    for number in range(60):
        trainer.controller_step(number)
    with torch.no_grad():
        skips = trainer.controller.propose(torch.Generator().manual_seed(0)).skips
    assert float(skips.mean()) == pytest.approx(0.2, abs=0.06)


def test_restarts_follow_the_paper() -> None:
    config = EnasConfig()
    steps = 7
    total = config.epochs * steps
    for epoch, expected in ((0, 0.05), (5, 0.0255), (10, 0.05), (20, 0.0255), (30, 0.05), (70, 0.05), (150, 0.05)):
        assert rate(config, epoch * steps, total) == pytest.approx(expected, abs=1e-6)
    assert rate(config, 10 * steps - 1, total) < 0.003


@pytest.mark.parametrize("build", [None, macro], ids=["cells", "macro"])
def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path, build: Any) -> None:
    given = {} if build is None else {"build": build}
    undisturbed, found = final(trainer_of(EnasTrainer, QUICK, tmp_path / "whole", **given))
    for at in (3, 6):  # in the first epoch's weights, and within its controller's steps
        again, also = resumed(EnasTrainer, QUICK, tmp_path / str(at), at=at, **given)
        assert equal(undisturbed, again)
        assert found == also


def test_the_answer_is_the_best_of_its_proposals_with_its_accuracy(tmp_path: Path) -> None:
    trainer: Any = trainer_of(EnasTrainer, {**QUICK, "samples": 6}, tmp_path)
    _, found = final(trainer)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert len({trainer.supernet.space.hash(each.architecture) for each in found}) == len(found) > 1
    assert all(0 <= each.score <= 1 for each in found)


def test_the_gradient_reaches_the_start(tmp_path: Path) -> None:
    trainer: Any = trainer_of(EnasTrainer, QUICK, tmp_path)
    proposal = trainer.controller.propose(torch.Generator().manual_seed(0))
    proposal.log_probability.backward()
    assert trainer.controller.start.grad.abs().sum() > 0


def test_cells_with_loose_ends_are_searched(tmp_path: Path) -> None:
    def micro() -> ENASMicro:
        return ENASMicro(channels=2, cells=3, input_channels=1, nodes=2)

    trainer: Any = trainer_of(EnasTrainer, {**QUICK, "epochs": 1}, tmp_path, build=micro)
    trainer.weight_step()
    trainer.controller_step(0)
    used = [p.grad is not None for p in trainer.supernet.model.parameters()]
    assert any(used)
    assert not all(used)


def test_sure_chances_have_no_entropy_and_a_gradient() -> None:
    """Of free inputs whose logits are so large that their chances are 1 in float32."""
    space = SearchSpace([Subset("inputs", (0, 1, 2), choose=None)])
    controller = Controller(space, size=4, temperature=1e-7, tanh_constant=200.0)
    proposal = controller.propose(torch.Generator().manual_seed(0))
    assert proposal.skips is not None
    assert not proposal.skips.lt(1).logical_and(proposal.skips.gt(0)).all(), "some are certain"
    (proposal.log_probability + proposal.entropy).backward()  # type: ignore[no-untyped-call]
    assert float(proposal.entropy.detach()) == pytest.approx(0, abs=1e-3)
    assert all(p.grad is None or p.grad.isfinite().all() for p in controller.parameters())
