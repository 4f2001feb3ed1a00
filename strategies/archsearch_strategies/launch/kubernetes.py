"""Workers as Jobs of a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from archsearch.protocol import FailureClass
from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.problems import Problem
from archsearch.spec.wiring import DriverSettings
from archsearch_strategies.launch import manifests, pods
from archsearch_strategies.launch.base import LaunchContext, Waiting, WorkerLost
from archsearch_strategies.launch.faults import refusal, template_faults, template_problems
from archsearch_strategies.launch.kubeapi import ApiError
from archsearch_strategies.launch.tracking import Timing, TokenBucket, TrackedJob
from archsearch_strategies.launch.watching import JobApi, JobWatch

log = logging.getLogger(__name__)

# The first of these that any worker waits for is what is told.
_SEVERITY = (
    reasons.SPEC_INVALID,
    reasons.IMAGE_UNAVAILABLE,
    reasons.POD_NOT_STARTING,
    reasons.QUOTA_PENDING,
    reasons.UNSCHEDULABLE,
)


class KubernetesLauncher:
    """Keeps as many trial Jobs alive as the driver wants, tells why one does not run, and cleans up.

    Jobs of an earlier driver of the same experiment are taken over: their workers go on while the driver is replaced.
    """

    def __init__(self, settings: DriverSettings, api: JobApi, *, timing: Timing | None = None) -> None:
        self._settings, self._api, self._timing = settings, api, timing or Timing()
        self._wake = asyncio.Event()
        self._watch = JobWatch(settings, api, self._timing, wake=self._wake.set, vanished=self._vanished)
        self._workers = self._watch.jobs
        self._to_delete: set[str] = set()
        self._wanted: dict[int, int] = {}  # Jobs by the number of their pods
        self._tasks: list[asyncio.Task[None]] = []
        self._batch = 1
        self._retry_at = 0.0
        self._retry_seconds = self._timing.retry
        self._refused: Waiting | None = None
        self._told: Waiting | None = None
        self._last_look = float("-inf")
        self._look_seconds = self._timing.look

    # The contract of archsearch_strategies.launch.base.Launcher.

    async def start(self, context: LaunchContext) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(self._timing.rate, self._timing.burst, self._loop.time())
        self._tasks = [
            asyncio.create_task(self._watch.run(), name="watch trial jobs"),
            asyncio.create_task(self._work(), name="keep trial jobs"),
        ]

    def ensure(self, workers: int, groups: int = 0) -> None:
        self._wanted = {self._context.spec.trials.nodes: max(0, groups)} | {1: max(0, workers)}
        self._wake.set()

    def update(self, spec: ExperimentSpec) -> None:
        self._context.spec = spec
        self._wake.set()

    def alive(self) -> int:
        return len(self._workers)

    async def detach(self) -> None:
        """Stop watching and leave the workers alone: the next driver takes them over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def stop(self, *, grace_seconds: float = 10.0) -> None:
        """Delete all trial Jobs, of earlier drivers too, and wait until they and their pods are gone."""
        await self.detach()
        self._wanted = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds + manifests.GRACE_SECONDS
        pause = 0.1
        left: list[str] = []
        while True:
            try:
                left = await self._delete_all()
            except ApiError as error:
                log.warning("trial Jobs cannot be deleted yet: %s", error)
                pause = max(pause, error.retry_after)
            else:
                if not left:
                    self._workers.clear()
                    return
            if loop.time() >= deadline:
                log.warning("still there after %.0f s: %s", grace_seconds + manifests.GRACE_SECONDS, ", ".join(left))
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 2.0)

    async def check(self, spec: ExperimentSpec) -> list[Problem]:
        """Faults of the trial pods' template that only the API server can tell, by a strict dry run of a Job.

        Raises:
            ApiError: the API server does not answer.
        """
        problems = template_problems(spec)
        name = names.trial_job(self._settings.experiment, 0, 0)
        url = manifests.lease_url(self._settings)
        job = manifests.trial_job(spec, self._settings, name=name, url=url, ranks=spec.trials.nodes)
        try:
            await self._api.create_job(job, dry_run=True)
        except ApiError as error:
            if error.code not in {400, 422}:
                if error.temporary:
                    raise
                return problems  # a quota or a missing right is something to wait for, not a fault of the manifest
            problems += template_faults(error)
        return problems

    async def _delete_all(self) -> list[str]:
        jobs = (await self._api.list_jobs(self._watch.selector))["items"]
        live = [job["metadata"]["name"] for job in jobs if not job["metadata"].get("deletionTimestamp")]
        for name in live:
            await self._api.delete_job(name)
        left = await self._api.list_pods(self._watch.selector)
        return [f"Job {job['metadata']['name']}" for job in jobs] + [f"pod {pod['metadata']['name']}" for pod in left]

    # Keeping.

    async def _work(self) -> None:
        """One pass at each change, and as long as a Job is not ready."""
        while True:
            self._wake.clear()
            if self._watch.listed:
                await self._step()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float | None:
        now = self._loop.time()
        due = [self._look_due(worker) for worker in self._workers.values() if worker.look_at or not worker.ready]
        due += [each.done_since + self._timing.gone for each in self._workers.values() if each.done_since is not None]
        if self._missing() or self._to_delete:
            due.append(max(self._retry_at, now + 1 / self._timing.rate))
        return max(0.02, min(due) - now) if due else None

    async def _step(self) -> None:
        try:
            await self._finish()
            await self._look()
            self._drop_surplus()
            await self._fill()
            await self._delete()
        except ApiError as error:
            self._back_off(error)
            log.warning("keeping trial Jobs: %s", error)
        self._tell()

    async def _finish(self) -> None:
        """Jobs that are over: a complete one was done, a failed one is looked at before it goes."""
        over = [worker for worker in self._workers.values() if worker.condition]
        if any(worker.condition == "Failed" for worker in over):
            self._examine(await self._api.list_pods(self._watch.selector))
        for worker in over:
            if worker.condition == "Failed" and not worker.reported:
                message = f"the Job {worker.name} failed, and its pod is gone"
                self._context.on_lost(WorkerLost(worker.name, FailureClass.INFRASTRUCTURE, message))
            self._drop(worker)

    def _look_due(self, worker: TrackedJob) -> float:
        if worker.look_at:
            return max(worker.look_at, self._last_look + self._timing.look / 4)
        began = worker.unready_since if worker.unready_since is not None else self._loop.time()
        return max(began + self._timing.slow, self._last_look + self._look_seconds)

    async def _look(self) -> None:
        now = self._loop.time()
        if self._watch.unsettled:
            self._watch.unsettled, self._look_seconds = False, self._timing.look
        if not any(
            self._look_due(worker) <= now for worker in self._workers.values() if worker.look_at or not worker.ready
        ):
            return
        self._last_look = now
        self._look_seconds = min(self._look_seconds * 1.5, self._timing.look_most)
        found = await self._api.list_pods(self._watch.selector)
        for worker in self._workers.values():
            worker.look_at = 0.0
        self._examine(found)

    def _examine(self, found: Iterable[JsonObject]) -> None:
        by_job: dict[str, list[JsonObject]] = {}
        for pod in found:
            by_job.setdefault(pods.job_of(pod), []).append(pod)
        now = self._loop.time()
        for worker in list(self._workers.values()):
            mine = by_job.get(worker.name, [])
            for pod in mine:
                self._examine_pod(worker, pod, now)
            if not worker.ready and not worker.condition and worker.name in self._workers:
                worker.waiting = self._why(worker, mine, now)

    def _examine_pod(self, worker: TrackedJob, pod: JsonObject, now: float) -> None:
        uid = pod["metadata"]["uid"]
        end = pods.ending(pod)
        if end is not None:
            if uid not in worker.reported:
                worker.reported.add(uid)
                name = pod["metadata"]["name"]
                self._context.on_lost(WorkerLost(worker.name, end.failure, end.message, end.refused, name))
            return
        silent = pods.lost_touch(pod)
        if not silent and not pods.terminating(pod):
            worker.odd_since.pop(uid, None)
            return
        since = worker.odd_since.setdefault(uid, now)
        allowed = self._timing.gone + (0 if silent else float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
        if now - since >= allowed:
            # Its Job would wait for that pod for ever (podReplacementPolicy Failed): another Job takes its place.
            node = (pod.get("spec") or {}).get("nodeName", "its node")
            message = f"the pod {pod['metadata']['name']} is out of reach: {node} does not answer"
            self._drop(worker)
            self._context.on_lost(WorkerLost(worker.name, FailureClass.INFRASTRUCTURE, message))

    def _why(self, worker: TrackedJob, mine: list[JsonObject], now: float) -> Waiting | None:
        if worker.unready_since is None or now - worker.unready_since < self._timing.slow:
            return None
        if worker.suspended:
            return Waiting(reasons.QUOTA_PENDING, f"the Job {worker.name} is suspended: its queue has not admitted it")
        if not mine:
            command = f"kubectl -n {self._settings.namespace} describe job {worker.name}"
            text = f"the Job {worker.name} has no pod: a quota or pod security does not admit one; `{command}` tells"
            return Waiting(reasons.QUOTA_PENDING, text)
        return next((why for pod in mine if (why := pods.waiting(pod)) is not None), None)

    def _vanished(self, worker: TrackedJob) -> None:
        """Somebody deleted the Job. Its worker was told to go; a new Job takes its place."""
        self._context.on_lost(WorkerLost(worker.name, FailureClass.PREEMPTED, f"the Job {worker.name} was deleted"))

    def _drop(self, worker: TrackedJob) -> None:
        """Have the Job deleted, and another take its place while one is wanted."""
        self._watch.drop(worker)
        self._to_delete.add(worker.name)

    def _drop_surplus(self) -> None:
        """Idle workers end by themselves; one that never got a node would wait for ever."""
        now = self._loop.time()
        for worker in list(self._workers.values()):
            if worker.size > 1 and worker.done_since is not None and now - worker.done_since >= self._timing.gone:
                self._drop(worker)  # the others wait for the one that is done, for ever
        for size, alive in self._by_size().items():
            stuck = [
                worker
                for worker in sorted(alive, key=lambda each: -each.since)
                if worker.unready_since is not None and now - worker.unready_since >= self._timing.slow
            ]
            for worker in stuck[: max(0, len(alive) - self._wanted.get(size, 0))]:
                self._drop(worker)

    def _by_size(self) -> dict[int, list[TrackedJob]]:
        found: dict[int, list[TrackedJob]] = {}
        for worker in self._workers.values():
            found.setdefault(worker.size, []).append(worker)
        return found

    def _missing(self) -> list[int]:
        """Sizes of the Jobs to make now.

        Those of several pods come one after another: two that each got half of the nodes would wait for ever.
        """
        found, there = [], self._by_size()
        for size, wanted in self._wanted.items():
            alive = there.get(size, [])
            missing = max(0, wanted - len(alive))
            if size > 1:
                missing = min(missing, int(all(worker.ready for worker in alive)))
            found += [size] * missing
        return found

    async def _fill(self) -> None:
        """Create what is missing in batches of 1, 2, 4, …: when creation fails, it fails for few."""
        now = self._loop.time()
        while now >= self._retry_at and (missing := self._missing()):
            batch = self._bucket.take(min(len(missing), self._batch), now)
            if not batch:
                return
            new = [self._watch.reserve(self._context.epoch, size) for size in missing[:batch]]
            results = await asyncio.gather(*(self._create(worker) for worker in new), return_exceptions=True)
            errors = [result for result in results if isinstance(result, BaseException)]
            if errors:
                for error in errors:
                    if not isinstance(error, ApiError):
                        raise error
                first = errors[0]
                assert isinstance(first, ApiError)  # noqa: S101 - for the type checker
                self._back_off(first)
                self._refused = refusal(first)
                log.warning("a trial Job cannot be created: %s", first)
                return
            self._batch, self._retry_seconds, self._refused = self._batch * 2, self._timing.retry, None
            now = self._loop.time()

    async def _create(self, worker: TrackedJob) -> None:
        job = manifests.trial_job(
            self._context.spec,
            self._settings,
            name=worker.name,
            url=self._context.lease_url,
            labels=self._context.labels,
            ranks=worker.size,
        )
        try:
            await self._api.create_job(job)
        except ApiError as error:
            if error.code == 409 and error.reason == "AlreadyExists" and await self._is_ours(worker.name):
                worker.since = self._loop.time()
                return
            self._workers.pop(worker.name, None)
            if error.code != 409:
                raise
        worker.since = self._loop.time()

    async def _is_ours(self, name: str) -> bool:
        """The name is taken by a live Job of this experiment: a reply was lost, or a driver was before us."""
        job = await self._api.get_job(name)
        owners = {owner.get("uid") for owner in job["metadata"].get("ownerReferences") or []}
        status = job.get("status") or {}
        over = any(pods.condition(status, kind).get("status") == "True" for kind in ("Complete", "Failed"))
        return self._settings.uid in owners and not over and not job["metadata"].get("deletionTimestamp")

    async def _delete(self) -> None:
        for name in list(self._to_delete):
            await self._api.delete_job(name)
            self._to_delete.discard(name)

    def _back_off(self, error: ApiError) -> None:
        self._batch = 1
        self._retry_at = self._loop.time() + max(error.retry_after, self._retry_seconds)
        self._retry_seconds = min(self._retry_seconds * 2, self._timing.retry_most)

    def _tell(self) -> None:
        """Report the gravest reason when it changed."""
        found = [worker.waiting for worker in self._workers.values() if worker.waiting is not None]
        found += [self._refused] if self._refused is not None else []
        gravest = min(found, key=lambda each: _SEVERITY.index(each.reason), default=None)
        if gravest is not None:
            missing = max(sum(self._wanted.values()), len(self._workers))
            ready = sum(worker.ready for worker in self._workers.values())
            gravest = replace(gravest, message=f"{missing - ready} of {missing} workers wait: {gravest.message}")
        if gravest != self._told:
            self._told = gravest
            self._context.on_waiting(gravest)
