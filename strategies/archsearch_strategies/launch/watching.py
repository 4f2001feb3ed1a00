"""What the cluster has of an experiment's trial Jobs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.spec.wiring import DriverSettings
from archsearch_strategies.launch import manifests, pods
from archsearch_strategies.launch.kubeapi import ApiError
from archsearch_strategies.launch.tracking import Timing, TrackedJob

log = logging.getLogger(__name__)


class JobApi(Protocol):
    """What the launcher asks of the API server; `KubeApi` is the real one."""

    async def create_job(self, job: JsonObject, *, dry_run: bool = False) -> JsonObject: ...
    async def get_job(self, name: str) -> JsonObject: ...
    async def list_jobs(self, selector: str) -> JsonObject: ...
    async def delete_job(self, name: str) -> None: ...
    async def list_pods(self, selector: str) -> list[JsonObject]: ...
    def watch_jobs(self, selector: str, version: str) -> AsyncIterator[JsonObject]: ...


class JobWatch:
    """Watches the Jobs by label, lists them again from time to time, and tells what vanished.

    Args:
        wake: called at each change.
        vanished: called with a Job that somebody else deleted, when it is forgotten here.
    """

    def __init__(
        self,
        settings: DriverSettings,
        api: JobApi,
        timing: Timing,
        *,
        wake: Callable[[], None],
        vanished: Callable[[TrackedJob], None],
    ) -> None:
        self.selector = manifests.trial_selector(settings)
        self.jobs: dict[str, TrackedJob] = {}
        self.listed = False  # once, so that Jobs of an earlier driver are known
        self.unsettled = False  # pods came or went since this was set to False
        self._experiment = settings.experiment
        self._api, self._timing, self._wake, self._tell_vanished = api, timing, wake, vanished
        self._dropped: set[str] = set()  # over and done with; what the watch still says of them does not count
        self._counters: dict[int, int] = {}  # the last one used for a name, by epoch

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = self._timing.retry
        while True:
            try:
                version = await self._list()
                pause = self._timing.retry
                async with asyncio.timeout(self._timing.relist):
                    async for event in self._api.watch_jobs(self.selector, version):
                        self._on_event(event)
            except TimeoutError:
                continue
            except ApiError as error:
                if error.code == 410:
                    continue
                log.warning("watching trial Jobs: %s", error)
                await asyncio.sleep(max(pause, error.retry_after))
                pause = min(pause * 2, self._timing.retry_most)

    def reserve(self, epoch: int, size: int) -> TrackedJob:
        """A Job that is about to be created, under a name that was never given."""
        counter = self._counters[epoch] = self._counters.get(epoch, 0) + 1
        name = names.trial_job(self._experiment, epoch, counter)
        now = asyncio.get_running_loop().time()
        job = self.jobs[name] = TrackedJob(name, float("inf"), now, size)
        return job

    def drop(self, job: TrackedJob) -> None:
        """Forget a Job, whatever the watch still says of it."""
        self.jobs.pop(job.name, None)
        self._dropped.add(job.name)

    async def _list(self) -> str:
        began = asyncio.get_running_loop().time()
        answer = await self._api.list_jobs(self.selector)
        found = set()
        for job in answer["items"]:
            found.add(job["metadata"]["name"])
            self._observe(job)
        for known in list(self.jobs.values()):
            if known.name not in found and known.since < began:
                self._vanished(known)
        self._dropped &= found
        self.listed = True
        self._wake()
        return str((answer.get("metadata") or {}).get("resourceVersion", ""))

    def _on_event(self, event: JsonObject) -> None:
        job = event.get("object") or {}
        name = (job.get("metadata") or {}).get("name", "")
        if event.get("type") == "DELETED":
            self._dropped.discard(name)
            if name in self.jobs:
                self._vanished(self.jobs[name])
        elif event.get("type") in {"ADDED", "MODIFIED"}:
            self._observe(job)
        self._wake()

    def _observe(self, job: JsonObject) -> None:
        metadata, status = job["metadata"], job.get("status") or {}
        name, now = metadata["name"], asyncio.get_running_loop().time()
        if name in self._dropped:
            return
        if metadata.get("deletionTimestamp"):
            if name in self.jobs:
                self._vanished(self.jobs[name])
            return
        known = self.jobs.get(name)
        if known is None:
            self._count(name)
            size = int((job.get("spec") or {}).get("completions") or 1)
            known = self.jobs[name] = TrackedJob(name, now, now, size)
        up, done, failed = (int(status.get(key) or 0) for key in ("ready", "succeeded", "failed"))
        ready = up > 0 and up + done >= known.size
        over = [kind for kind in ("Complete", "Failed") if pods.condition(status, kind).get("status") == "True"]
        known.condition = over[0] if over else ""
        known.suspended = bool((job.get("spec") or {}).get("suspend"))
        if ready:
            known.ever_ready, known.unready_since, known.waiting = True, None, None
        elif known.unready_since is None:
            known.unready_since = now
        if failed > known.failed or up < known.pods_ready:
            known.look_at = now
        if done and known.done_since is None:
            known.done_since = now
        if known.look_at or known.ready != ready:
            self.unsettled = True
        known.ready, known.pods_ready, known.failed = ready, up, failed

    def _vanished(self, job: TrackedJob) -> None:
        self.drop(job)
        self._tell_vanished(job)

    def _count(self, name: str) -> None:
        """Names of Jobs that are taken over are not given again."""
        match = re.fullmatch(rf"{re.escape(self._experiment)}-t(\d+)-(\d+)", name)
        if match:
            epoch, counter = int(match[1]), int(match[2])
            self._counters[epoch] = max(self._counters.get(epoch, 0), counter)
