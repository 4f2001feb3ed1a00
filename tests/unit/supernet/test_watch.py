"""The collapse alarm: in time where skip connections take over, silent in a healthy search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import supernets
from support.edge_cells import EdgeNet
from support.supernets import Recorder, loop_of, tiny, trainer_of

from archsearch.nn import describe
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.run import Watch
from archsearch.supernet.trainer import Epoch
from archsearch.trial.context import TrialStopped
from archsearch.zoo.nasbench201 import NASBench201
from archsearch_strategies.algorithms.darts import DartsTrainer

COLLAPSE = Path(__file__).parents[3] / "examples" / "oneshot" / "darts-collapse.yaml"
NASBENCH201 = describe(tiny())
EDGES = [choice.name for choice in NASBENCH201.choices]


def epoch(skips: int, certainty: float = 0.6) -> Epoch:
    """An epoch after which so many of the six edges would be skip connections."""
    architecture = {e: "skip_connect" if i < skips else "nor_conv_3x3" for i, e in enumerate(EDGES)}
    rest = (1 - certainty) / 4
    return Epoch({}, {e: [certainty, rest, rest, rest, rest] for e in EDGES}, architecture)


def alarms(skips: list[int]) -> list[int]:
    """The epochs with an alarm, of a search of so many."""
    watch = Watch(SupernetConfig(epochs=len(skips)), NASBENCH201)
    return [i for i, each in enumerate(skips) if watch.look(epoch(each), i)[1]]


def test_a_collapse_is_told_once_after_the_third_epoch_in_a_row() -> None:
    assert alarms([0, 1, 2, 3, 4, 5, 6, 6, 6]) == [5]
    assert alarms([6, 6, 6, 6]) == [2]
    assert alarms([6] * 30) == [10]  # as soon as the first third is over


def test_a_healthy_search_is_left_alone() -> None:
    assert alarms([0, 1, 2, 1, 2, 2, 1, 2, 2, 2]) == []  # a third of the operations
    assert alarms([3, 3, 2, 3, 3, 2, 4, 1]) == []  # at the limit now and then
    assert alarms([0, 1, 4, 5, 5, 4, 4, 2, *[1] * 16]) == []  # ahead while the weights begin to learn


def test_what_is_watched_is_reported_with_every_epoch() -> None:
    watch = Watch(SupernetConfig(epochs=8), NASBENCH201)
    metrics, alarm = watch.look(epoch(3), 1)
    assert metrics["skipRatio"] == 0.5
    assert 0 < metrics["entropy"] < 1
    assert alarm == ""
    watch.look(epoch(4), 2)
    metrics, alarm = watch.look(epoch(6), 3)
    assert "100% of the operations would be skip connections for 3 epochs in a row" in alarm
    assert "entropy 0." in alarm
    assert watch.look(Epoch(), 4)[0] == {}


def test_the_alarm_is_raised_in_the_trial_before_its_end(tmp_path: Path) -> None:
    line = Recorder()
    trainer: Any = trainer_of(DartsTrainer, {"epochs": 4}, tmp_path, build=lambda: EdgeNet(nodes=1), channel=line)
    with torch.no_grad():
        for name, choice in trainer.alphas.choices.items():
            trainer.alphas[name][choice.options.index("skip_connect")] += 5
    loop_of(trainer).run()
    points = [each for each in line.messages if each["type"] == "point"]
    assert [bool(each.get("alarm")) for each in points] == [False, False, True, False]
    assert points[-1]["metrics"]["skipRatio"] == 1.0


def test_epochs_in_which_only_weights_are_trained_raise_no_alarm(tmp_path: Path) -> None:
    """The architecture is then what it was drawn as; on few choices half of that may well be skip connections."""
    watch = Watch(SupernetConfig(), NASBENCH201)
    learned = [False] * 30 + [True] * 3  # of 50
    told = [watch.look(epoch(6), number, learning=learning)[1] for number, learning in enumerate(learned)]
    assert [bool(each) for each in told] == [False] * 32 + [True]
    trainer = trainer_of(DartsTrainer, {"epochs": 3, "warmupEpochs": 2}, tmp_path)
    assert [trainer.learns(number) for number in range(3)] == [False, False, True]


def test_plain_darts_collapses_in_the_manifest_that_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is stopped when the alarm is raised: well before its end, at more skip connections than not."""
    spec = yaml.safe_load(COLLAPSE.read_text())["spec"]
    data = {name: spec["evaluator"]["config"][name] for name in ("dataset", "trainSize", "validationSize")}
    monkeypatch.setattr(supernets, "DATA", data)

    class Stopping(Recorder):
        def poll(self) -> list[str]:
            return ["stop"] if self.messages and self.messages[-1].get("alarm") else []

    line, args, config = Stopping(), spec["modelSpace"]["zoo"]["args"], spec["strategy"]["config"]
    trainer = trainer_of(
        DartsTrainer, config, tmp_path, build=lambda: NASBench201(input_channels=1, **args), channel=line
    )
    with pytest.raises(TrialStopped):
        loop_of(trainer).run()
    *_, last = line.messages
    assert last["step"] < config["epochs"] - 1
    assert "the search collapses" in last["alarm"]
    assert last["metrics"]["skipRatio"] >= 0.5
