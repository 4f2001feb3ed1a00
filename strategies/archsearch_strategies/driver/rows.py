"""A trial as the driver has it: a row of the table, and which kinds and states count for what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from archsearch.protocol import FailureClass, MetricPoint, Resources, TrialKind, TrialState, fidelity_of
from archsearch.spec.base import JsonObject

COUNTED = frozenset({TrialKind.EVALUATE, TrialKind.SUPERNET, TrialKind.INHERIT})  # what budget.maxTrials counts
CANDIDATES = frozenset({TrialKind.EVALUATE, TrialKind.INHERIT})  # what may be the best
WEIGHTED = frozenset({TrialKind.EVALUATE, TrialKind.SUPERNET})  # what has weights of its own, before the search's end
FINISHED = frozenset(
    {TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.CACHED}
)
REUSABLE = frozenset({TrialState.SUCCEEDED, TrialState.CACHED})
SHARED = REUSABLE | {TrialState.INFEASIBLE}  # what an equal trial need not find out again

Identity = tuple[str, str, int, str]


@dataclass(slots=True)
class Lease:
    """The newest lease of a trial. `digest` is the SHA-256 of its secret."""

    digest: str
    attempt: int
    epoch: int
    counter: int
    worker: str
    job: str


@dataclass(slots=True, eq=False)
class Row:
    """One trial. `number` is None for describe and export, which no table holds."""

    number: int | None
    kind: TrialKind
    architecture: JsonObject | None = None
    hash: str = ""
    params: JsonObject = field(default_factory=dict)
    replicate: int = 0
    seed: int = 0
    state: TrialState = TrialState.PENDING
    attempts: int = 0
    lease: Lease | None = None
    failures: Counter[FailureClass] = field(default_factory=Counter)  # of the attempts that were tried again
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()  # the objectives', larger is better
    failure: FailureClass | None = None
    message: str = ""
    resources: Resources = field(default_factory=Resources)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    payload: Any = None
    source: int | None = None  # of a known result and of what is trained again: the trial it stems from
    source_uri: str = ""  # the run of that trial, if it is an earlier one
    added: bool = False  # by the driver, after the search
    control: bool = False  # a random architecture, trained as the best are
    checkpoint: str | None = None
    points: list[MetricPoint] = field(default_factory=list)
    stop: bool = False
    stop_reason: str = ""  # where a stopping rule decided so
    input: str = ""  # key of the checkpoint that it begins with
    weighted: bool = False  # its result came with weights, whether they are still kept or not

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def fidelity(self) -> float:
        """How far it is trained; infinity: in full."""
        return fidelity_of(self.params)

    @property
    def merit(self) -> tuple[float, float]:
        """What the best are ranked by, of a trial that has values: fidelity first, then the first objective."""
        return self.fidelity, self.values[0]

    @property
    def identity(self) -> Identity:
        """Two trials of a run with the same identity have the same result."""
        return (
            self.kind.value,
            self.hash,
            self.replicate,
            json.dumps(self.params, sort_keys=True) if self.params else "",
        )
