"""The driver's view of its workers: which ended, whether any serves, and why none does."""

from __future__ import annotations

from collections.abc import Callable

import archsearch
from archsearch.errors import ArchsearchError, UserError
from archsearch.spec.status import Waiting
from archsearch_strategies.driver.bulletin import Bulletin
from archsearch_strategies.launch.base import Waiting as LaunchWaiting
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.lease.server import LeaseServer

CRASHES = 10  # workers in a row that ended before they were granted anything


class WorkersFailed(ArchsearchError):
    """No worker comes up."""


class Crew:
    """Told by launcher and lease book; tells the bulletin.

    Args:
        changed: called when the driver may have to act.
    """

    def __init__(self, server: LeaseServer, bulletin: Bulletin, changed: Callable[[], None]) -> None:
        self.failure: ArchsearchError | None = None  # no worker can ever serve; the run cannot go on
        self._server = server
        self._bulletin = bulletin
        self._changed = changed
        self._crashes = 0

    def serves(self) -> None:
        """A worker was granted something."""
        self._crashes = 0  # what others wait for, the launcher tells and takes back

    def lost(self, worker: WorkerLost) -> None:
        """A worker ended without being done."""
        if worker.refused:
            version = self._server.refused_version or "another version"
            self.failure = UserError(
                f"spec.trials.image: its workers have archsearch {version}, the driver {archsearch.__version__}; "
                f"give an image of the driver's version ({worker.message})"
            )
        session = self._bulletin.session
        if session is not None:
            session.book.lost(worker)
        self._crashes += 1
        if self._crashes >= CRASHES and self.failure is None:
            self.failure = WorkersFailed(
                f"{self._crashes} workers in a row ended before they did anything; the last: {worker.message}"
            )
        self._changed()

    def waits(self, waiting: LaunchWaiting | None) -> None:
        """Why wanted workers do not run yet; None: they do."""
        told = None if waiting is None else Waiting(reason=waiting.reason, message=waiting.message[:4096])
        self._bulletin.wait_for(told)
        self._changed()
