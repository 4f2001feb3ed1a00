"""What a running search shows, fed with statuses and an own clock."""

from __future__ import annotations

import io

import pytest
from support.bad_manifests import SOUND

from archsearch.spec import NASExperiment, SearchStatus
from archsearch_cli.display import LiveDisplay, PlainDisplay, Rate, display

SPEC = NASExperiment.model_validate(SOUND).spec


def status(succeeded: int, *, accepted: bool | None = True, **more: object) -> SearchStatus:
    return SearchStatus.model_validate(
        {
            "progress": f"{succeeded}/40",
            "trials": {"succeeded": succeeded, "running": 2},
            "verdict": {"accepted": accepted},
            "best": [{"number": 3, "value": "0.9712345678"}] if succeeded else [],
            **more,
        }
    )


def test_the_rate_counts_from_when_the_ledger_was_replayed() -> None:
    now = [100.0]
    rate = Rate(lambda: now[0])
    assert rate.per_minute(status(0, accepted=None)) is None
    now[0] += 50
    assert rate.per_minute(status(30)) is None
    now[0] += 30
    assert rate.per_minute(status(40)) == pytest.approx(20.0)


def test_plain_lines_say_what_changed_and_only_then() -> None:
    stream, now = io.StringIO(), [0.0]
    with PlainDisplay(SPEC, stream, Rate(lambda: now[0])) as shown:
        shown.update(status(0, accepted=None))
        shown.update(status(0))
        now[0] = 60.0
        shown.update(status(4, eta="9 min 0 s", stage="founding"))
        shown.update(status(4, eta="8 min 59 s", stage="founding"))
        shown.update(status(4, waiting={"reason": "Unschedulable", "message": "no node has a GPU"}))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "trials 0/40 (2 running) | best none yet"
    assert lines[1] == (
        "founding | trials 4/40 (2 running, 4 succeeded) | best accuracy 0.971235 (trial 3) | 4/min | ETA 9 min 0 s"
    )
    assert lines[2].endswith("waiting: Unschedulable: no node has a GPU")
    assert len(lines) == 3


def test_an_alarm_is_shown_by_both(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    alarms = [{"number": 1, "step": step, "message": "the cell collapses"} for step in (30, 31)]
    with PlainDisplay(SPEC, stream, Rate(lambda: 0.0)) as shown:
        shown.update(status(4))
        shown.update(status(4, alarms=alarms))
        shown.update(status(4, alarms=alarms))
        shown.update(status(5, alarms=alarms))
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith(" | alarm: trial 1, step 31: the cell collapses (and 1 more)")
    assert "alarm" not in lines[2]  # told once
    assert len(lines) == 3
    with LiveDisplay("digits", SPEC) as panel:
        panel.update(status(4, alarms=alarms))
    assert "trial 1, step 31" in capsys.readouterr().err


def test_how_far_a_supernet_is_shows_in_both(capsys: pytest.CaptureFixture[str]) -> None:
    def at(step: int) -> SearchStatus:
        metrics = {"trainLoss": "0.123456789", "accuracy": "0.5", "loss": "1.5", "entropy": "2"}
        supernet = {"number": 1, "kind": "supernet", "step": step, "metrics": metrics}
        return status(0, running=[supernet, {"number": 2, "kind": "evaluate", "step": 100 + step}])

    stream = io.StringIO()
    with PlainDisplay(SPEC, stream, Rate(lambda: 0.0)) as shown:
        for step in (3, 3, 4):
            shown.update(at(step))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(" | trial 1 (supernet) at step 4: trainLoss 0.123457, accuracy 0.5, loss 1.5")
    with LiveDisplay("digits", SPEC) as panel:
        panel.update(at(5))
    assert "trial 2 (evaluate) at step 105" in capsys.readouterr().err


def test_the_panel_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveDisplay("digits", SPEC) as shown:
        shown.update(status(7, stage="evolving", eta="3 s"))
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("digits", "7/40", "2 running, 7 succeeded", "accuracy 0.971235 (trial 3)", "larger is better", "3 s"):
        assert part in said.err


def test_without_a_terminal_lines_are_plain() -> None:
    assert isinstance(display("digits", SPEC), PlainDisplay)
