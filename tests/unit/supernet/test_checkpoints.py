"""Checkpoints of a supernet's trial: what is written is the state of one step, though it is copied during the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.supernets import loop_of, trainer_of
from torch import Tensor

from archsearch.registry import find
from archsearch.store.checkpoint import read_checkpoint
from tests.unit.supernet.test_every_algorithm import QUICK, stage_options

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(QUICK) if name != "textnas"),
    ("darts", {"order": 2}),
]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_a_checkpoint_holds_the_state_of_its_step(
    name: str, config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = stage_options(name, checkpointSteps=1, **config) | {"epochs": 3}
    trainer = trainer_of(find("archsearch.supernets", name), options, tmp_path)
    loop = loop_of(trainer)
    snapshots: list[dict[str, Tensor]] = []
    take, save = loop._snapshot, trainer.bench.context._saver.save
    late: list[int] = []

    def cloned() -> Any:
        tensors, state = take()
        snapshots.append({key: value.detach().clone() for key, value in tensors.items()})
        return tensors, state

    def noted(name: str, tensors: Any, state: Any, later: Any) -> None:
        late.append(sum(id(value) in later for value in tensors.values()))
        save(name, tensors, state, later)

    loop._snapshot = cloned  # type: ignore[method-assign]
    trainer.bench.context._saver.save = noted  # type: ignore[method-assign]
    loop.run()
    trainer.bench.context.close()
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert folders
    for folder in folders:  # a newer one takes the place of one that waits to be written
        kept = snapshots[int(folder.name) - 1]
        tensors, _ = read_checkpoint(folder)
        assert tensors.keys() == kept.keys()
        assert all(torch.equal(value, kept[key]) for key, value in tensors.items())
    weights = trainer.bench.context._copied_later[0].param_groups[0]["params"]
    assert max(late) > len(weights), "the weights and their momenta"
    assert "left out" not in caplog.text
