"""The one-shot strategy that the page on strategies writes: it trains, is resumed to the bit, and plans a search."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from support.supernets import equal, final, resumed, tiny, trainer_of

from archsearch.nn import describe
from archsearch.protocol import TrialKind
from archsearch.spec.experiment import Objective
from archsearch_strategies.strategy import AskTell

PAGE = Path(__file__).resolve().parents[3] / "docs" / "strategies.md"


def example() -> dict[str, Any]:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "OneShot" in block)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    return names


def test_the_example_trains_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    trainer, config = example()["SharedRandomTrainer"], {"samples": 6}
    whole, found = final(trainer_of(trainer, config, tmp_path / "whole"))
    assert len(found) == 5
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    again, same = resumed(trainer, config, tmp_path, at=4)
    assert equal(whole, again)
    assert same == found


def test_the_example_begins_with_its_supernet() -> None:
    names = example()
    strategy = names["SharedRandom"](names["SharedRandomConfig"]())
    trial = AskTell(strategy, describe(tiny()), [Objective(metric="accuracy")], seed=0).ask()
    assert trial is not None
    assert (trial.kind, trial.params["trainer"]) == (TrialKind.SUPERNET, "shared-random")
    assert trial.params["config"]["samples"] == 100
