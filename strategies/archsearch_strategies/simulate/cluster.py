"""What is simulated: how trials are answered, and what befalls the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from archsearch.protocol import FailureClass, TrialState
from archsearch.space import Rng
from archsearch_strategies.driver.rows import Row


@dataclass(frozen=True)
class Point:
    """One point of a learning curve, so many seconds of work after the trial's start."""

    seconds: float
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """How a trial ends that nothing befalls, and the seconds of work until then."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 1.0
    state: TrialState = TrialState.SUCCEEDED  # or FAILED, INFEASIBLE
    failure: FailureClass | None = None
    message: str = ""
    curve: tuple[Point, ...] = ()
    payload: Any = None


Answers = Callable[[Row], Answer]


@dataclass(frozen=True)
class Cluster:
    """Simulated workers.

    What befalls an attempt depends on the simulation's seed, the trial's number and its attempts so far alone, so that
    it is the same in any order of events.

    Attributes:
        workers: how many; None: as many as trials may run at one time.
        startup_seconds: before a new worker, and one in the place of a preempted one, can serve.
        overhead_seconds: of each attempt, besides its work.
        stragglers: share of attempts (0 … 1) that take `slowdown` times as long.
        failures: share of attempts that fail, after a uniform part of their work, as `failure`; what becomes of the
            trial is decided by `retries`, as always.
        preemptions: share of attempts whose worker is taken away after a uniform part of their work.
        checkpoints: a preempted trial goes on where it was; else it starts anew.
        stop_seconds: from the decision to stop a trial until its worker hears of it.
    """

    workers: int | None = None
    startup_seconds: float = 0.0
    overhead_seconds: float = 0.0
    stragglers: float = 0.0
    slowdown: float = 10.0
    failures: float = 0.0
    failure: FailureClass = FailureClass.USER_ERROR
    preemptions: float = 0.0
    checkpoints: bool = True
    stop_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("stragglers", "failures", "preemptions"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1, not {share}")
        for name in ("startup_seconds", "overhead_seconds", "stop_seconds"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is at least 0, not {getattr(self, name)}")
        if self.slowdown < 1.0:
            raise ValueError(f"slowdown is at least 1, not {self.slowdown}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is at least 1, not {self.workers}")
        if self.preemptions == 1.0:
            raise ValueError("with preemptions 1 no trial would ever end; give a smaller share")


@dataclass(frozen=True)
class Fate:
    """What befalls one attempt: the part of its work after which it fails or is preempted, None: it does not."""

    slowdown: float = 1.0
    fails: float | None = None
    preempted: float | None = None


LUCKY = Fate()


def fate(cluster: Cluster, seed: int, row: Row) -> Fate:
    """Drawn for the attempt of `row` that begins now.

    Slowness and failure go by the attempts that were not preempted: a lost worker changes no trial's result.
    """
    if not (cluster.stragglers or cluster.failures or cluster.preemptions):
        return LUCKY
    preempted = row.failures[FailureClass.PREEMPTED]
    own = Rng(f"simulate:{seed}:{row.number}:{sum(row.failures.values()) - preempted}")
    slow, fails, part = own.random(), own.random(), own.random()
    lost = Rng(f"preempt:{seed}:{row.number}:{row.attempts}") if cluster.preemptions else None
    return Fate(
        cluster.slowdown if slow < cluster.stragglers else 1.0,
        part if fails < cluster.failures else None,
        lost.random() if lost is not None and lost.random() < cluster.preemptions else None,
    )
