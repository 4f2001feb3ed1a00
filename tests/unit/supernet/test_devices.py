"""One-shot searches on a device that is not the CPU: one that only pretends, which refuses what a GPU would refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import final, resumed, trainer_of
from support.synthetic import images, trainers, words
from support.synthetic import trainer_of as synthetic
from torch import nn

from archsearch.registry import find
from archsearch.supernet import batchnorm
from archsearch.zoo.nasbench201 import NASBench201
from archsearch.zoo.textnas import TextNAS
from tests.support import fake_worker as fake
from tests.unit.supernet.test_every_algorithm import QUICK, experiment, stage_options, worker

PENALTIES = {"penalties": [{"metric": "macs", "weight": 0.1}]}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(QUICK) if name != "textnas"),
    ("darts", {"order": 2}),
    ("darts", {"auxiliarySkip": True}),
    ("proxylessnas", {"estimator": "reinforce"}),
    *((name, PENALTIES) for name in ("darts", "gdas", "proxylessnas", "enas")),
]


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_a_supernet_of_the_device_learns_what_the_cpus_does(
    name: str, config: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchnorm, "SMALL", math.inf)  # one kernel on both: rounding grows from step to step
    kind, options = find("archsearch.supernets", name), stage_options(name, **config)
    (weights, _), found = final(trainer_of(kind, options, tmp_path / "cpu"))
    far = request.getfixturevalue("elsewhere")
    trainer = trainer_of(kind, options, tmp_path / "device")
    assert all(far(each) for each in getattr(trainer, "inner", trainer).supernet.model.parameters())
    (there, _), answers = final(trainer)
    assert [each.architecture for each in answers] == [each.architecture for each in found]
    assert there.keys() == weights.keys()
    for key, value in weights.items():
        assert torch.allclose(there[key].cpu(), value, rtol=1e-3, atol=1e-4), key


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", ["darts", "gdas", "enas"])
def test_a_checkpoint_of_the_device_is_gone_on_with(name: str, tmp_path: Path) -> None:
    kind, options = find("archsearch.supernets", name), stage_options(name)
    (weights, _), found = final(trainer_of(kind, options, tmp_path / "whole"))
    (again, _), answers = resumed(kind, options, tmp_path, at=2)
    assert answers == found
    assert all(torch.equal(again[key].cpu(), value.cpu()) for key, value in weights.items())


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", sorted(QUICK))
async def test_a_search_on_the_device_ends_with_an_answer(name: str, tmp_path: Path) -> None:
    """Supernet, inherited candidates, and the training of the answer and of its control."""
    summary = await fake.run(tmp_path, experiment(name), fake.FakeLauncher(worker(tmp_path)))
    assert summary.state == "Succeeded", summary.message
    assert len(summary.controls) == 1


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", sorted(trainers()))
def test_in_half_precision_a_search_goes_about_the_same_way(name: str, precision: str, tmp_path: Path) -> None:
    def first_steps(**more: Any) -> list[float]:
        text = name == "textnas"
        task = words(64, vocabulary=100) if text else images(64, (3, 16, 16))
        trainer = synthetic(trainers()[name], more, task, sentences if text else network, tmp_path, device="cuda")
        losses = []
        for number in range(2):
            trainer.bench.step = number
            losses.append(float(trainer.step(0, number).detach()))
        if hasattr(trainer, "controller_step"):
            trainer.controller_step(0)
        return losses

    exact, found = first_steps(), first_steps(precision=precision)
    # The first step may be one that float16's scale is too large for, which leaves the weights alone.
    assert found == [pytest.approx(exact[0], rel=0.01), pytest.approx(exact[1], rel=0.1)]


def network() -> nn.Module:
    return NASBench201(channels=4, cells=1)


def sentences() -> nn.Module:
    return TextNAS(vocabulary=100, embedding_size=8, hidden=8, layers=3, dropout=0.0)
