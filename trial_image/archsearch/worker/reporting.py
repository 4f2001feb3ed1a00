"""A trial's line to the driver: heartbeats with the points of its curve, and what they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from typing import Literal

from archsearch.protocol import Grant, MetricPoint, Outcome, ReportRequest
from archsearch.worker.client import LeaseClient, LeaseLost, Refused, Rejected, Unreachable
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.points import REPORT_BYTES, PointQueue
from archsearch.worker.settings import WorkerSettings

FLUSH_SECONDS = 5.0
Order = Literal["stop", "release"]


class Reporter:
    """Reports for one lease.

    Args:
        newest_checkpoint: key of the newest that is in the store; empty before the first.
        obey: called with what the driver wants done within so many seconds.
        lose: called when the trial is another worker's.
    """

    def __init__(
        self,
        grant: Grant,
        client: LeaseClient,
        settings: WorkerSettings,
        metrics: WorkerMetrics,
        *,
        newest_checkpoint: Callable[[], str],
        obey: Callable[[Order, float], None],
        lose: Callable[[], None],
    ) -> None:
        self.points = PointQueue()
        self.lost = False
        self._grant, self._client, self._settings, self._metrics = grant, client, settings, metrics
        self._newest_checkpoint, self._obey, self._lose = newest_checkpoint, obey, lose
        self._reporting = asyncio.Lock()

    async def beat(self, done: asyncio.Event) -> None:
        """Report again and again, until the trial is done or its lease is lost."""
        while not await _over_within(done, self._grant.report_seconds / 2):
            if not await self._report():
                return

    async def flush(self) -> None:
        """Have the driver know all points, if it answers soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                before = math.inf
                while not self.lost and 0 < len(self.points) < before:
                    before = len(self.points)
                    await self._report()

    async def make_room(self, outcome: Outcome) -> None:
        """Points that the result has no room for are reported before it; those that cannot be now are dropped."""
        room = REPORT_BYTES - len(json.dumps(outcome.to_json()))
        while not self.lost and not self.points.fit(room):
            before = len(self.points)
            await self._report()
            if len(self.points) >= before:
                self.points.drop_oldest(room)

    async def _report(self) -> bool:
        """A heartbeat, and as many points as a request takes; False when the lease is lost."""
        async with self._reporting:  # points come in their order, those of a report that failed too
            return await self._send(self.points.take(REPORT_BYTES))

    async def _send(self, batch: list[MetricPoint]) -> bool:
        request = ReportRequest(
            lease=self._grant.lease,
            fence=self._grant.fence,
            points=batch,
            checkpoint=self._newest_checkpoint() or None,
            worker=self._settings.worker,
            job=self._settings.job,
            rank=self._settings.rank,
        )
        try:
            reply = await self._client.report(request)
        except LeaseLost:
            self.lost = True
            self._lose()
            return False
        except asyncio.CancelledError:
            self.points.put_back(batch)
            raise
        except (Unreachable, Refused, Rejected) as error:
            # The trial goes on: its result is offered when the driver is back, which then says whether it takes it.
            self._metrics.heartbeat_failures.inc()
            if isinstance(error, Unreachable):
                self.points.put_back(batch)
            return True
        if reply.action != "continue":
            self._obey(reply.action, self._settings.grace_seconds)
        return True


async def _over_within(done: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), seconds)
    return done.is_set()
