"""What an evaluator and plain trial code see of a trial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archsearch.errors import ArchsearchError, BadMetric
from archsearch.protocol import Assignment, KeepWeights, StorageRef, TrialKind
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import EvaluatorSpec, Goal, ModelSpace, Objective, ZooSpace
from archsearch.trial import get_and_apply_next_architecture, report_final_result, report_intermediate_result
from archsearch.trial.context import TrialContext, TrialReleased, TrialStopped, set_current
from archsearch.trial.metrics import check_final, worth_keeping


class Line:
    """A channel that remembers what was sent, and gives the orders that a test put in."""

    def __init__(self) -> None:
        self.sent: list[JsonObject] = []
        self.orders: list[str] = []

    def send(self, message: JsonObject) -> None:
        self.sent.append(message)

    def poll(self) -> list[str]:
        orders, self.orders = self.orders, []
        return orders


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def assignment(**fields: Any) -> Assignment:
    defaults: dict[str, Any] = {
        "experiment": "test",
        "kind": TrialKind.EVALUATE,
        "number": 1,
        "folder": "trials/1",
        "model_space": ModelSpace(zoo=ZooSpace(name="nasbench201")),
        "evaluator": EvaluatorSpec(python="code:fit"),
        "objectives": [Objective(metric="accuracy")],
        "storage": StorageRef(uri="nowhere"),
    }
    return Assignment(**(defaults | fields))


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def context(tmp_path: Path, line: Line) -> Iterator[TrialContext]:
    made = TrialContext(assignment(), tmp_path, channel=line)
    set_current(made)
    yield made
    set_current(None)


def test_architecture_weights_and_alarms_ride_on_points(context: TrialContext, line: Line) -> None:
    import torch

    weights = {"op": torch.tensor([0.123456789, 0.876543211]), "bad": [0.5, float("nan")], "list": [1, 0]}
    context.report(3, {"loss": 0.5}, weights=weights, alarm="x" * 2000)
    (point,) = line.sent
    assert point["weights"] == {"op": [0.12346, 0.87654], "list": [1.0, 0.0]}
    assert point["alarm"] == "x" * 1024
    context.report(4, {"loss": 0.5})
    assert set(line.sent[1]) == {"type", "step", "metrics"}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({f"c{i}": [0.5] for i in range(4097)}, "4097 choices"),
        ({"c": [0.5] * 8193}, "8193 numbers"),
        ({"\N{SNOWMAN}" * 100_000: [0.5]}, "bytes of JSON"),
        ({"c": ["many"]}, "sequence of numbers"),
        ({"c": 0.5}, "sequence of numbers"),
    ],
)
def test_weights_beyond_bounds_are_refused(
    context: TrialContext, line: Line, weights: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArchsearchError, match=words):
        context.report(1, {"loss": 0.5}, weights=weights)
    assert line.sent == []


def tensors(value: float) -> dict[str, Any]:
    import torch

    return {"weight": torch.full((2,), value)}


def test_reports_leave_out_what_is_not_finite(context: TrialContext, line: Line) -> None:
    import torch

    context.report(3, {"loss": torch.tensor(0.5), "broken": float("nan"), "large": float("inf")})
    assert line.sent == [{"type": "point", "step": 3, "metrics": {"loss": 0.5}}]
    assert context.last_metrics == {"loss": 0.5}


def test_a_metric_that_is_no_number_is_named(context: TrialContext) -> None:
    with pytest.raises(BadMetric, match="'accuracy' must be a number, it is 'high'"):
        context.report(1, {"accuracy": "high"})  # type: ignore[dict-item]


def test_checkpoints_are_due_by_the_clock_and_announced(tmp_path: Path, line: Line) -> None:
    clock = Clock()
    context = TrialContext(assignment(), tmp_path, channel=line, checkpoint_seconds=60, clock=clock)
    taken: list[int] = []

    def snapshot() -> tuple[dict[str, Any], JsonObject]:
        taken.append(1)
        return tensors(1), {"step": 7}

    context.checkpoint_point(snapshot)
    assert taken == []
    clock.now = 60.0
    context.checkpoint_point(snapshot)
    context.checkpoint_point(snapshot)
    assert taken == [1]
    context.close()
    assert line.sent == [{"type": "checkpoint", "name": "00000001"}]

    resumed = TrialContext(assignment(), tmp_path / "next", resume=tmp_path / "checkpoints/00000001", channel=line)
    loaded = resumed.load_checkpoint()
    assert loaded is not None
    assert loaded[0]["weight"].tolist() == [1.0, 1.0]
    assert loaded[1] == {"step": 7}
    resumed.save_checkpoint(tensors(2), {})
    resumed.close()
    assert line.sent[-1] == {"type": "checkpoint", "name": "00000002"}


def test_stop_comes_before_and_release_after_a_checkpoint(context: TrialContext, line: Line) -> None:
    line.orders = ["release"]
    with pytest.raises(TrialReleased):
        context.checkpoint_point(lambda: (tensors(1), {}))
    assert [message["type"] for message in line.sent] == ["checkpoint"]
    line.orders = ["stop"]
    with pytest.raises(TrialStopped):
        context.checkpoint_point(lambda: (tensors(1), {}))
    assert len(line.sent) == 1


def test_user_code_that_catches_exceptions_does_not_swallow_the_end(context: TrialContext, line: Line) -> None:
    line.orders = ["stop"]

    def user_code() -> None:
        try:
            report_intermediate_result(0.5)
        except Exception:
            pytest.fail("the order to stop was swallowed")

    with pytest.raises(TrialStopped):
        user_code()


@pytest.mark.parametrize(
    ("keep", "goal", "best", "value", "kept"),
    [
        (KeepWeights.BEST, Goal.MAXIMIZE, 0.5, 0.6, True),
        (KeepWeights.BEST, Goal.MAXIMIZE, 0.5, 0.4, False),
        (KeepWeights.BEST, Goal.MINIMIZE, 0.5, 0.4, True),
        (KeepWeights.BEST, Goal.MINIMIZE, 0.5, 0.6, False),
        (KeepWeights.BEST, Goal.MINIMIZE, None, 0.6, True),
        (KeepWeights.ALWAYS, Goal.MAXIMIZE, 0.5, 0.4, True),
        (KeepWeights.NEVER, Goal.MAXIMIZE, None, 0.4, False),
    ],
)
def test_weights_are_kept_by_the_goal(
    keep: KeepWeights, goal: Goal, best: float | None, value: float, kept: bool
) -> None:
    objectives = [Objective(metric="accuracy", goal=goal)]
    trial = assignment(keep_weights=keep, best_value=best, objectives=objectives)
    assert worth_keeping(trial, {"accuracy": value}) is kept


def test_final_weights_are_written_only_when_kept(tmp_path: Path) -> None:
    context = TrialContext(assignment(best_value=0.5), tmp_path)
    context.final_weights(tensors(3), {"input": [1, 8, 8]})
    assert context.save_final_weights({"accuracy": 0.4}) is None
    assert not (tmp_path / "final").exists()
    folder = context.save_final_weights({"accuracy": 0.5})
    assert folder == tmp_path / "final"
    assert json.loads((folder / "state.json").read_text()) == {"input": [1, 8, 8]}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"loss": 1.0}, "'accuracy' was not reported; reported: loss"),
        ({}, "reported: none"),
        ({"accuracy": float("nan")}, "'accuracy' is nan"),
        ({"accuracy": 1.0, "loss": float("inf")}, "'loss' is inf"),
    ],
)
def test_final_metrics_must_be_whole(metrics: dict[str, float], words: str) -> None:
    with pytest.raises(BadMetric, match=words):
        check_final(assignment(), metrics)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, {"accuracy": 0.5}),
        ({"default": 1, "latency": 2}, {"accuracy": 1.0, "latency": 2.0}),
        ({"accuracy": 0.25}, {"accuracy": 0.25}),
    ],
)
def test_results_may_be_numbers_or_dictionaries(
    context: TrialContext, line: Line, value: Any, expected: dict[str, float]
) -> None:
    report_final_result(value)
    assert context.final_metrics == expected
    assert line.sent == [{"type": "final", "metrics": expected}]


def test_default_beside_the_objective_is_refused(context: TrialContext) -> None:
    with pytest.raises(ArchsearchError, match="'default' and 'accuracy', which are the same metric"):
        report_final_result({"default": 1, "accuracy": 2})


def test_intermediate_results_count_steps(context: TrialContext, line: Line) -> None:
    report_intermediate_result(0.1)
    report_intermediate_result({"default": 0.2})
    first, second = (message["step"] for message in line.sent)
    assert second == first + 1
    assert [message["metrics"] for message in line.sent] == [{"accuracy": 0.1}, {"accuracy": 0.2}]


def test_standalone_prints(capsys: pytest.CaptureFixture[str]) -> None:
    report_intermediate_result(0.25)
    report_final_result({"default": 0.5})
    assert capsys.readouterr().out == "intermediate result: 0.25\nfinal result: {'default': 0.5}\n"


def choosing() -> Any:
    import torch

    from archsearch.nn import LayerChoice

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice({"one": torch.nn.Linear(2, 2), "two": torch.nn.Identity()}, label="layer")

        def forward(self, inputs: Any) -> Any:
            return self.layer(inputs)

    return Net()


def test_the_architecture_is_applied_in_place(tmp_path: Path) -> None:
    import torch

    model = choosing()
    same = model
    set_current(TrialContext(assignment(architecture={"layer": "two"}), tmp_path))
    try:
        get_and_apply_next_architecture(model)
    finally:
        set_current(None)
    assert isinstance(same.layer, torch.nn.Identity)
    assert list(same.parameters()) == []
    assert same(torch.ones(1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.filterwarnings("ignore")
def test_standalone_takes_the_first_candidates() -> None:
    import torch

    model = choosing()
    get_and_apply_next_architecture(model)
    assert isinstance(model.layer, torch.nn.Linear)


def test_an_architecture_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    set_current(TrialContext(assignment(architecture={"layer": "three"}), tmp_path))
    try:
        with pytest.raises(ArchsearchError, match="three"):
            get_and_apply_next_architecture(choosing())
    finally:
        set_current(None)
