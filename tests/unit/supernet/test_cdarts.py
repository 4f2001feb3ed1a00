"""CDARTS: its losses follow their schedule, each step moves what it may; resumed to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import equal, final, resumed, trainer_of

from archsearch_strategies.algorithms.cdarts import CdartsTrainer, distance

QUICK = {"epochs": 3, "warmupEpochs": 1, "learningRate": 0.05}


def changes(trainer: Any, action: Any) -> set[str]:
    """Which of search weights, evaluation weights and alphas an action moves."""
    parts = {"search": trainer.supernet.model, "evaluation": trainer.evaluation.model, "alphas": trainer.alphas}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    action()
    return {
        name
        for name, part in parts.items()
        if any(not torch.equal(p, old) for p, old in zip(part.parameters(), before[name], strict=True))
    }


def test_each_phase_moves_what_it_may(tmp_path: Path) -> None:
    trainer: Any = trainer_of(CdartsTrainer, QUICK, tmp_path)
    assert changes(trainer, lambda: trainer.step(0, 0)) == {"search"}
    assert changes(trainer, lambda: trainer.step(1, 0)) == {"evaluation"}
    assert changes(trainer, lambda: trainer.joint_step(trainer.bench.architecture_batch(), 1.0)) == {
        "evaluation",
        "alphas",
    }
    assert changes(trainer, lambda: trainer.step(2, 0)) == {"search", "evaluation", "alphas"}


def test_the_penalty_falls_within_a_fifth_of_the_joint_epochs(tmp_path: Path) -> None:
    trainer: Any = trainer_of(CdartsTrainer, {"epochs": 36, "learningRate": 0.05}, tmp_path)
    assert [trainer.phase(epoch) for epoch in (0, 1, 2, 3, 4, 35)] == [
        *["search"] * 2,
        *["evaluation"] * 2,
        *["joint"] * 2,
    ]
    assert trainer.penalty_at(4) == 5.0
    assert trainer.penalty_at(6) == pytest.approx(5 * (1 - 2 / 6.4))
    assert trainer.penalty_at(11) == 0.0


def test_the_joint_loss_is_made_of_its_parts(tmp_path: Path) -> None:
    trainer: Any = trainer_of(CdartsTrainer, QUICK, tmp_path)
    trainer.supernet.model.eval()
    trainer.discretise()
    trainer.evaluation.model.eval()
    trainer.follow()
    batch = trainer.bench.architecture_batch()
    with torch.no_grad():
        search, evaluation = trainer.supernet.model(batch.inputs), trainer.evaluation.model(batch.inputs)
        own = [float(torch.nn.functional.cross_entropy(out, batch.targets)) for out in (search, evaluation)]
        wanted, given = (evaluation / 2).softmax(1), (search / 2).softmax(1)
        apart = 4 * float((wanted * (wanted.log() - given.log())).sum(1).mean())
        share = sum(float(trainer.alphas.probability(n)[[0, 1, 4]].sum()) for n in trainer.alphas.choices) / 6
        found = float(trainer.joint_loss(batch, 3.0))
    assert found == pytest.approx(sum(own) / 2 + 2 * apart + 3 * share, rel=1e-5)


def test_the_distance_of_equal_logits_is_zero() -> None:
    logits = torch.randn(5, 7)
    assert float(distance(logits, logits, 2.0)) == pytest.approx(0.0, abs=1e-6)
    one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    assert float(distance(one, other, 1.0)) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


@pytest.mark.parametrize("at", [4, 7])
def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path, at: int) -> None:
    undisturbed, found = final(trainer_of(CdartsTrainer, QUICK, tmp_path / "whole"))
    again, also = resumed(CdartsTrainer, QUICK, tmp_path, at=at)
    assert equal(undisturbed, again)
    assert found == also


def test_perturbation_goes_on_with_the_evaluation_network_and_without_the_penalty(tmp_path: Path) -> None:
    config = CdartsTrainer.Config.model_validate({"epochs": 3, "warmupEpochs": 1})
    tuned = CdartsTrainer.tuning(config)  # type: ignore[arg-type]
    assert (tuned.warmup_epochs, tuned.penalty) == (0, 0.0)
    (tensors, state), _ = final(trainer_of(CdartsTrainer, {"epochs": 3, "warmupEpochs": 1}, tmp_path / "first"))
    after: Any = trainer_of(CdartsTrainer, {"epochs": 1, "warmupEpochs": 0}, tmp_path / "next", source=(tensors, state))
    for name, value in after.evaluation.model.state_dict().items():
        assert torch.equal(value, tensors[f"@evaluation.{name}"]), name
    assert [after.learns(0), trainer_of(CdartsTrainer, {"epochs": 3, "warmupEpochs": 1}, tmp_path).learns(1)] == [
        True,
        False,
    ]
