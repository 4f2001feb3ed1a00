"""Trials as a strategy sees them: what it submits, how one ended, and what earlier runs know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from archsearch.errors import ArchsearchError
from archsearch.protocol import FailureClass, TrialKind, TrialState, fidelity_of
from archsearch.space import Architecture, SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Goal, Objective

Json = Any
CHECKPOINT_OF = "checkpointOf"


class StrategyError(ArchsearchError):
    """The strategy's own code is at fault: it raised an exception, or awaited something else than its run."""


class SearchFailed(StrategyError):
    """A trial that all others depend on failed, a supernet's for example: there is nothing to go on with."""


@dataclass(slots=True, eq=False)
class Trial:
    """One trial as a strategy sees it: pending when submitted, with its result once it was handed over."""

    number: int
    kind: TrialKind
    architecture: Architecture | None
    hash: str  # canonical hash of the architecture, "" without one
    params: JsonObject
    replicate: int
    state: TrialState = TrialState.PENDING
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()  # the objectives', larger is better; empty without a usable result
    failure: FailureClass | None = None
    message: str = ""
    payload: Json = None
    weights: bool = False  # it has final weights, which later trials may begin with (`checkpointOf`)

    @property
    def ok(self) -> bool:
        """It has objective values: it succeeded, or its result was known, or it was stopped early with a result."""
        return bool(self.values)

    @property
    def fidelity(self) -> float:
        """How far it was trained, in the evaluator's unit; infinity where it named none: in full."""
        return fidelity_of(self.params)

    @property
    def score(self) -> float:
        """The first objective, larger is better; minus infinity without a result."""
        return self.values[0] if self.values else float("-inf")


@dataclass(frozen=True)
class PriorPoint:
    """A result of an earlier run of the same space.

    Values of one group are comparable with each other, those of group 0 with this run's own results too; the others
    were measured otherwise (fewer epochs, other data), so that only their order tells something.
    """

    architecture: Architecture
    hash: str
    metrics: Mapping[str, float]
    values: tuple[float, ...]  # of this run's objectives, larger is better
    group: int = 0

    @property
    def score(self) -> float:
        """The first objective, larger is better."""
        return self.values[0]


@dataclass(frozen=True)
class Result:
    """How a trial ended, as it is fed to an execution."""

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: FailureClass | None = None
    message: str = ""
    payload: Json = None
    weights: bool = True  # of a success: whether its final weights were kept


@dataclass(frozen=True)
class Submission:
    """What a strategy wants tried."""

    architecture: Architecture | None = None
    kind: TrialKind = TrialKind.EVALUATE
    params: JsonObject = field(default_factory=dict)
    replicate: int = 0


def objective_values(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> tuple[float, ...]:
    """The objectives' values, turned so that larger is better; empty when one is missing."""
    if any(objective.metric not in metrics for objective in objectives):
        return ()
    return tuple(
        metrics[objective.metric] if objective.goal is Goal.MAXIMIZE else -metrics[objective.metric]
        for objective in objectives
    )


def prior_points(
    space: SearchSpace,
    objectives: Sequence[Objective],
    results: Iterable[tuple[Architecture | Mapping[str, Any], Mapping[str, float]]],
) -> tuple[PriorPoint, ...]:
    """Comparable results (architecture, metrics) as prior points, best first.

    Raises:
        ArchitectureError: an architecture is not of the space.
        ValueError: a result lacks the metric of an objective.
    """
    points = []
    for raw, metrics in results:
        values = objective_values(objectives, metrics)
        if not values:
            wanted = ", ".join(objective.metric for objective in objectives)
            raise ValueError(f"a prior result has the metrics {', '.join(sorted(metrics))}, and needs {wanted}")
        architecture = space.validate(raw)
        points.append(PriorPoint(architecture, space.hash(architecture), dict(metrics), values))
    return tuple(sorted(points, key=lambda point: -point.score))
