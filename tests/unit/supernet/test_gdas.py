"""GDAS: the drawn candidate's gradient is the Gumbel softmax's; one path is computed; resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import equal, final, resumed, tiny, trainer_of

from archsearch.nn import describe
from archsearch.space import Categorical, SearchSpace, Subset
from archsearch_strategies.algorithms.gdas import GdasTrainer, drawn


def test_the_weight_of_the_drawn_candidate_has_the_gradient_of_the_gumbel_softmax() -> None:
    logits = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    chosen, weight = drawn(logits, 0.7, torch.Generator().manual_seed(3))
    assert weight.item() == pytest.approx(1.0, abs=1e-12)
    (found,) = torch.autograd.grad(weight.sum(), logits)
    noise = -torch.empty(3).exponential_(generator=torch.Generator().manual_seed(3)).log()
    soft = ((logits.detach().log_softmax(0) + noise) / 0.7).softmax(0)
    own = torch.nn.functional.one_hot(torch.tensor(chosen), 3)
    # d s_i / d log p_j = s_i (1[i = j] - s_j) / T; log p's own softmax moves all by the same, which s does not see.
    expected = soft[chosen] * (own - soft) / 0.7
    assert torch.allclose(found, expected, atol=1e-12)


def test_candidates_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[drawn(logits, 1.0, generator)[0]] += 1
    expected = 4000 * logits.softmax(0)[:3]
    assert counts[3] == 0
    assert float(((counts[:3] - expected) ** 2 / expected).sum()) < 13.8  # chi-square, 2 degrees, p = 0.001


def test_a_step_computes_one_candidate_of_each_choice(tmp_path: Path) -> None:
    trainer = trainer_of(GdasTrainer, {}, tmp_path)
    trainer.follow()  # type: ignore[attr-defined]
    assert all(len(trainer.supernet.mixture(name).chosen) == 1 for name in trainer.supernet.choices)  # type: ignore[attr-defined]


def test_the_temperature_falls_to_its_end(tmp_path: Path) -> None:
    trainer = trainer_of(GdasTrainer, {"epochs": 5}, tmp_path)
    seen = []
    for epoch in range(5):
        trainer.bench.epoch = epoch
        seen.append(trainer.temperature())  # type: ignore[attr-defined]
    assert seen == pytest.approx([10.0, 7.525, 5.05, 2.575, 0.1])


def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed, found = final(trainer_of(GdasTrainer, {}, tmp_path / "whole"))
    again, also = resumed(GdasTrainer, {}, tmp_path, at=4)
    assert equal(undisturbed, again)
    assert found == also


def test_it_refuses_what_cannot_be_drawn_one_at_a_time() -> None:
    space = SearchSpace((Categorical("op", ("a", "b")), Subset("inputs", (0, 1, 2), None)))
    (problem,) = GdasTrainer.check(space, None)
    assert "'inputs'" in problem
    assert "any number of inputs" in problem
    assert GdasTrainer.check(describe(tiny()), None) == []


def test_architecture_steps_leave_running_statistics_alone(tmp_path: Path) -> None:
    trainer: Any = trainer_of(GdasTrainer, {}, tmp_path)
    trainer.supernet.model.train()
    before = {name: value.clone() for name, value in trainer.supernet.model.state_dict().items()}
    trainer.architecture_step(trainer.bench.architecture_batch())
    assert all(torch.equal(value, before[name]) for name, value in trainer.supernet.model.state_dict().items())
    assert any(parameter.grad is not None for parameter in trainer.alphas.parameters())
