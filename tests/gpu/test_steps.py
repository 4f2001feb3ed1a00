"""A step of every one-shot algorithm on the device, in float32 and bfloat16, and beside the CPU's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.synthetic import images, trainer_of, trainers, words
from torch import Tensor, nn

from archsearch.zoo.nasbench201 import NASBench201
from archsearch.zoo.textnas import TextNAS

SAMPLES = {"enas": {"controllerSamples": 2}, "textnas": {"controllerSamples": 2}}
STEPS = 3


def network() -> nn.Module:
    return NASBench201(channels=8, cells=1)


def sentences() -> nn.Module:
    return TextNAS(vocabulary=100, embedding_size=8, hidden=8, layers=3, dropout=0.0)


def made(name: str, directory: Path, device: str, **config: Any) -> Any:
    """A trainer on small made-up data."""
    text = name == "textnas"
    task = words(256, vocabulary=100) if text else images(256, (3, 16, 16))
    options = {**SAMPLES.get(name, {}), **config}
    return trainer_of(trainers()[name], options, task, sentences if text else network, directory, device=device)


def step(trainer: Any, number: int) -> float:
    """One of the weights and one of the architecture."""
    trainer.bench.step = number
    loss = float(trainer.step(0, number).detach())
    if hasattr(trainer, "controller_step"):
        trainer.controller_step(number)
    return loss


def learned(trainer: Any) -> dict[str, Tensor]:
    """What is known about the architecture."""
    inner = getattr(trainer, "inner", trainer)
    module = getattr(inner, "alphas", None) or getattr(inner, "controller", None)
    return {} if module is None else {n: p.detach().cpu().clone() for n, p in module.named_parameters()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(trainers()))
def test_a_step_changes_weights_and_architecture(name: str, precision: str, device: str, tmp_path: Path) -> None:
    trainer = made(name, tmp_path, device, precision=precision)
    tensors, _ = trainer.bench.snapshot()
    assert {value.device.type for key, value in tensors.items() if key.startswith("model.")} == {device}
    weights = {n: p.detach().clone() for n, p in _model(trainer).named_parameters() if p.requires_grad}
    before = learned(trainer)
    losses = [step(trainer, number) for number in range(2)]
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(p, weights[n]) for n, p in _model(trainer).named_parameters() if n in weights)
    assert all(bool(p.isfinite().all()) for p in _model(trainer).parameters())
    after = learned(trainer)
    assert not before or any(not torch.equal(after[n], before[n]) for n in before)
    assert bool(before) == (name != "spos")


def _model(trainer: Any) -> nn.Module:
    found: nn.Module = getattr(trainer, "inner", trainer).supernet.model
    return found


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", list(trainers()))
def test_a_search_agrees_with_the_cpus(name: str, device: str, tmp_path: Path) -> None:
    """The same weights, data and draws: losses and the architecture's distribution differ by rounding alone."""
    here, there = made(name, tmp_path / "here", "cpu"), made(name, tmp_path / "there", device)
    for number in range(STEPS):
        assert step(there, number) == pytest.approx(step(here, number), rel=5e-3)
    ours, theirs = learned(here), learned(there)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        # Adam's first steps have the size of the rate whatever the gradient's: a sign may differ where it is near 0.
        assert torch.allclose(value, theirs[key], atol=8e-3 * STEPS), key
        assert float((value - theirs[key]).abs().median()) < 1e-3, key


@pytest.mark.parametrize("name", ["darts", "pc-darts"])
def test_compiled_and_not_learn_the_same(name: str, device: str, tmp_path: Path) -> None:
    if device == "cpu":
        pytest.skip("compiling for the CPU takes minutes; the benchmark does")
    plain, fast = made(name, tmp_path / "plain", device), made(name, tmp_path / "fast", device, compile=True)
    for number in range(2):
        assert step(fast, number) == pytest.approx(step(plain, number), rel=1e-2)
    assert fast.bench.compiled.supernet is fast.supernet  # whether it worked is the machine's affair; it went on
