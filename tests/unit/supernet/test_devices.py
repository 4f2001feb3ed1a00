"""One-shot searches on a device that is not the CPU: one that only pretends, which refuses what a GPU would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import final, resumed, trainer_of

from archsearch.registry import find
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
    name: str, config: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
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
