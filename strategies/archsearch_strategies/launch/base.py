"""What a launcher is: it keeps as many workers alive as the driver wants, and tells why one is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from archsearch.protocol import FailureClass
from archsearch.spec.experiment import ExperimentSpec


@dataclass(frozen=True)
class WorkerLost:
    """A worker ended without being done. `job` is what its LeaseRequest said."""

    job: str
    failure: FailureClass  # PREEMPTED (deleted, drained, exit 143), OUT_OF_MEMORY, INFRASTRUCTURE (crash, node gone)
    message: str
    refused: bool = False  # it exited with EXIT_REFUSED: no worker of this image can ever serve
    worker: str = ""  # which of a Job's workers, as its LeaseRequest names it; empty: all


@dataclass(frozen=True)
class Waiting:
    """Why wanted workers do not run yet: one of the reasons in archsearch.spec.reasons."""

    reason: str
    message: str


@dataclass
class LaunchContext:
    """What the driver hands to a launcher once, before the first `ensure`."""

    spec: ExperimentSpec
    epoch: int  # of the ledger; 0 while the ledger is not open yet (the first worker is started before that)
    lease_url: str
    token: str
    on_lost: Callable[[WorkerLost], None]  # called on the event loop
    on_waiting: Callable[[Waiting | None], None]
    labels: dict[str, str] = field(default_factory=dict)


class Launcher(Protocol):
    """Desired-state: `ensure` says how many workers should be alive and not done; it returns at once."""

    async def start(self, context: LaunchContext) -> None: ...

    def ensure(self, workers: int, groups: int = 0) -> None:
        """Start workers until `workers` are alive or starting. Surplus idle ones end by themselves.

        Args:
            groups: how many Jobs of `trials.nodes` workers each there shall be beside them.
        """

    def update(self, spec: ExperimentSpec) -> None:
        """A changed spec (parallelTrials, budget, driver)."""

    def alive(self) -> int: ...

    async def stop(self, *, grace_seconds: float = 10.0) -> None:
        """Ask all workers to go (they checkpoint and release), wait, insist. Nothing is left running."""
