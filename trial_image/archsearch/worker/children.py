"""Which process serves a trial: a new fork each, or one long-lived child. Keeps a zygote alive under both."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from archsearch.protocol import Assignment
from archsearch.spec.pods import Isolation
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.processes import Child, Zygote, ZygoteFailed

FAILURES_IN_A_ROW = 3
EXIT_SECONDS = 2.0


class Children:
    """Hands out children with nothing of an earlier trial left running.

    While a finished trial's result is handed in, its process ends in the background and the next one is forked, so
    that the next trial need not wait for either.
    """

    def __init__(self, make_zygote: Callable[[], Zygote], metrics: WorkerMetrics) -> None:
        self._make = make_zygote
        self._metrics = metrics
        self._zygote = make_zygote()
        self._resident: Child | None = None
        self._spare: Child | None = None  # forked already, for any trial
        self._parting: asyncio.Task[None] | None = None
        self._failures = 0

    @property
    def hopeless(self) -> bool:
        """No zygote could be started several times in a row: another worker may do better."""
        return self._failures >= FAILURES_IN_A_ROW

    def start(self) -> None:
        self._zygote.start()

    async def take(self, assignment: Assignment, threads: int) -> Child:
        """A child that waits for a trial.

        Raises:
            ZygoteFailed: none can be had now.
        """
        key = _key(assignment, threads) if assignment.isolation is Isolation.IN_PROCESS else ""
        if self._parting is not None:
            await self._parting
            self._parting = None
        resident, self._resident = self._resident, None
        if resident is not None:
            if key and resident.key == key and not resident.exited.done():
                await self._zygote.sweep()
                return resident
            await self.retire(resident)
        spare, self._spare = self._spare, None
        if spare is not None and not spare.exited.done():
            spare.key = key
            return spare
        if not self._zygote.alive:
            await self._zygote.stop()
            self._metrics.restarts.inc()
            self._zygote = self._make()
            self._zygote.start()
        try:
            child = await self._zygote.spawn()
        except ZygoteFailed:
            self._failures += 1
            raise
        self._failures = 0
        child.key = key
        return child

    def keep(self, child: Child) -> None:
        """A long-lived child that ended its trial well waits for the next one."""
        self._resident = child

    def is_alone(self, child: Child) -> bool:
        """Whether the child's trial has left no other process. False where that cannot be told quickly."""
        return self._zygote.is_alone(child)

    def part(self, child: Child) -> None:
        """A child that has told its result ends in the background; then the next one is forked."""
        self._parting = asyncio.create_task(self._part(child))

    async def _part(self, child: Child) -> None:
        await self.retire(child)
        with contextlib.suppress(ZygoteFailed):
            self._spare = await self._zygote.spawn()

    def kill(self, child: Child) -> None:
        self._zygote.kill(child)

    async def retire(self, child: Child) -> None:
        """Let a child end by itself, or else kill it; when this returns nothing of it is left."""
        child.close()
        done, _ = await asyncio.wait({child.exited}, timeout=EXIT_SECONDS)
        if not done:
            self._zygote.kill(child)
            await child.exited

    async def stop(self) -> None:
        if self._parting is not None:
            self._parting.cancel()
        self._resident = self._spare = None
        await self._zygote.stop()


def _key(assignment: Assignment, threads: int) -> str:
    parts = [assignment.kind, assignment.model_space.to_json(), assignment.evaluator.to_json(), threads]
    return json.dumps(parts, sort_keys=True)
