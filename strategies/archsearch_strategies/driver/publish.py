"""Progress to the experiment's `.status.search`: at most once a second, only what changed, never in the run's way."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from archsearch.spec.base import JsonObject
from archsearch.spec.status import SearchStatus
from archsearch_strategies.launch.kubeapi import ApiError

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
QUIET_SECONDS = 10.0  # between two writes of which only the steps of running trials and the time left are new
LONGEST_PAUSE_SECONDS = 30.0


class StatusApi(Protocol):
    async def patch_status(self, name: str, status: JsonObject) -> None: ...


class StatusPublisher:
    """Writes the newest status given to it. `run` as a task, `finish` once at the end."""

    def __init__(self, api: StatusApi, experiment: str) -> None:
        self._api, self._experiment = api, experiment
        self._newest: JsonObject | None = None
        self._written: JsonObject | None = None
        self._written_at = float("-inf")
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._last = False
        self.gone = asyncio.Event()  # the experiment is not there any more

    def __call__(self, status: SearchStatus) -> None:
        """Take a status; called on the event loop."""
        # Absent values are written as null: a merge patch leaves alone what it does not name.
        self._newest = status.model_dump(mode="json", by_alias=True)
        self._idle.clear()
        self._changed.set()

    async def run(self) -> None:
        pause = INTERVAL_SECONDS
        while not self.gone.is_set():
            if not self._must_write():
                self._changed.clear()
                if self._newest == self._written or self._last:
                    self._idle.set()
                await self._changed_within(self._quiet_left())
                continue
            newest = self._newest
            try:
                await self._api.patch_status(self._experiment, {"search": newest})
            except ApiError as error:
                if error.code == 404:
                    self.gone.set()
                    return
                log.warning("the status cannot be written now: %s", error)
                await asyncio.sleep(max(pause, error.retry_after))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            self._written, self._written_at = newest, asyncio.get_running_loop().time()
            pause = INTERVAL_SECONDS
            if not self._last:
                await asyncio.sleep(INTERVAL_SECONDS)

    async def finish(self, seconds: float) -> bool:
        """Write what is left, also what is only an estimate. False: it could not be written within `seconds`."""
        self._last = True
        self._changed.set()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self.gone)]
        done, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return bool(done)

    def _must_write(self) -> bool:
        if self._newest is None or self._newest == self._written:
            return False
        if self._last or self._written is None or _essence(self._newest) != _essence(self._written):
            return True
        return self._quiet_left() <= 0

    def _quiet_left(self) -> float:
        return self._written_at + QUIET_SECONDS - asyncio.get_running_loop().time()

    async def _changed_within(self, seconds: float) -> None:
        estimate_waits = self._newest is not None and self._newest != self._written
        try:
            async with asyncio.timeout(max(0.0, seconds) if estimate_waits else None):
                await self._changed.wait()
        except TimeoutError:
            pass


def _essence(status: JsonObject) -> JsonObject:
    return {key: value for key, value in status.items() if key not in {"updatedTime", "eta", "gpuSeconds", "running"}}
