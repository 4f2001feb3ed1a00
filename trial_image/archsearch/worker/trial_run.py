"""One trial from grant to outcome, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from archsearch.errors import StoreError
from archsearch.protocol import (
    FailureClass,
    Grant,
    MetricPoint,
    Outcome,
    TrialState,
)
from archsearch.spec.base import JsonObject
from archsearch.worker.children import EXIT_SECONDS, Children
from archsearch.worker.client import LeaseClient
from archsearch.worker.ending import Killed, failed, silent
from archsearch.worker.limits import Cgroup
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.points import PointQueue
from archsearch.worker.processes import Child, Exit, ZygoteFailed
from archsearch.worker.reporting import Order, Reporter
from archsearch.worker.settings import WorkerSettings
from archsearch.worker.storage import Stores, TrialStorage, log_tail

CHECKPOINT_SECONDS = 60.0
LAST_REPORT_SECONDS = 5.0
_POINT_FIELDS = ("step", "metrics", "weights", "alarm")


@dataclass(frozen=True)
class Surroundings:
    """What all trials of a worker share."""

    settings: WorkerSettings
    client: LeaseClient
    children: Children
    stores: Stores
    metrics: WorkerMetrics
    cgroup: Cgroup
    base: Path


class TrialRun:
    """Runs the trial of one grant; its outcome is None when the lease was lost: it is another worker's trial then."""

    def __init__(self, grant: Grant, around: Surroundings, directory: Path) -> None:
        self.grant = grant
        self.assignment = grant.assignment
        self._around = around
        self._directory = directory
        self._threads = self.assignment.threads or around.cgroup.cpus(around.settings.cpus)
        self._storage = TrialStorage(self.assignment, grant.fence, around.stores, around.metrics)
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._order: Literal["", "stop", "release"] = ""
        self._order_deadline = math.inf
        self._killed: Killed = ""
        self._final: dict[str, float] | None = None
        self._last: dict[str, float] = {}
        self._pending_checkpoint = ""
        self._uploading: asyncio.Task[None] | None = None
        self._started = 0.0
        self._reporter = Reporter(
            grant,
            around.client,
            around.settings,
            around.metrics,
            newest_checkpoint=lambda: self._storage.newest,
            obey=self._obey,
            lose=self._changed.set,
        )
        self._follows = grant.member is not None and grant.member.rank > 0  # another rank tells of the trial

    def release(self, grace_seconds: float) -> None:
        """Have the trial checkpoint and give itself back within `grace_seconds`, or less if called again with less."""
        self._obey("release", grace_seconds)

    async def outcome(self) -> Outcome | None:
        heartbeat = asyncio.create_task(self._reporter.beat(self._done))
        try:
            found = await self._run()
            self._done.set()
            await asyncio.wait({heartbeat}, timeout=LAST_REPORT_SECONDS)  # a report on its way must not come twice
            if found is not None:
                await self._reporter.make_room(found)
            return None if self._reporter.lost else found
        finally:
            heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat
            if self._uploading is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._uploading
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def _run(self) -> Outcome | None:
        kills = self._around.cgroup.oom_kills()
        self._directory.mkdir(parents=True)
        try:
            message = await self._order_to_child()
        except StoreError as error:
            return failed(FailureClass.INFRASTRUCTURE, f"the store does not give what the trial needs: {error}")
        if self._reporter.lost or self._order:
            return self._ended_early()
        try:
            child = await self._around.children.take(self.assignment, self._threads)
        except ZygoteFailed as error:
            return failed(FailureClass.INFRASTRUCTURE, str(error))
        self._started = time.monotonic()
        child.send(message | {"last": not child.key})
        result = await self._follow(child)
        ended = await self._end(child, result)
        outcome = self._judge(result, ended, kills)
        return await self._deliver(outcome, weights=bool(result and result.get("weights")))

    async def _order_to_child(self) -> JsonObject:
        resume = source = None
        if self.assignment.attempt > 1:
            resume = await self._storage.resume(self._directory / "resume")
        if key := self.assignment.params.get("checkpoint"):
            source = await self._storage.fetch_input(str(key))
        return {
            "assignment": self.assignment.to_json(),
            "directory": str(self._directory),
            "log": str(self._directory / "log.txt"),
            "cache": str(self._around.settings.work_dir / "cache"),
            "threads": self._threads,
            "resume": str(resume) if resume else None,
            "input": str(source) if source else None,
            "checkpointSeconds": CHECKPOINT_SECONDS,
            "member": self.grant.member.to_json() if self.grant.member is not None else None,
        }

    # --- while the child runs

    async def _follow(self, child: Child) -> JsonObject | None:
        """Until the child told its result or its line ended, or it had to be killed."""
        reading = asyncio.create_task(self._read(child))
        limit = self._started + self.assignment.timeout_seconds if self.assignment.timeout_seconds else math.inf
        told = ""
        try:
            while not reading.done():
                if self._order != told:
                    told = self._order
                    child.send({"order": told})
                now = time.monotonic()
                if self._killed:
                    pass
                elif self._reporter.lost:
                    self._kill(child, "lost")
                elif now >= limit:
                    self._kill(child, "timeout")
                elif now >= self._order_deadline:
                    self._kill(child, "grace")
                self._changed.clear()
                deadline = math.inf if self._killed else min(limit, self._order_deadline)
                change = asyncio.create_task(self._changed.wait())
                timeout = None if math.isinf(deadline) else max(0.0, deadline - now)
                watched: list[asyncio.Future[Any]] = [reading, change, child.exited]
                await asyncio.wait(watched, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if child.exited.done():
                    # Nothing holds the other end any more: what is still in the line is all there is.
                    await asyncio.wait({reading}, timeout=EXIT_SECONDS)
                    return reading.result() if reading.done() else None
            return reading.result()
        finally:
            reading.cancel()

    def _kill(self, child: Child, why: Killed) -> None:
        self._killed = why
        self._around.children.kill(child)

    async def _read(self, child: Child) -> JsonObject | None:
        while True:
            try:
                line = await child.reader.readline()
                if not line.endswith(b"\n"):
                    return None
                message = json.loads(line, parse_constant=_no_constant)
                if message["type"] == "result":
                    return dict(message)
                self._hear(message)
            except (ConnectionError, OSError):
                return None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                # Not written by our side of the child: user code found the line and wrote to it.
                if not self._killed:
                    self._kill(child, "garbage")
                return None

    def _hear(self, message: JsonObject) -> None:
        if self._follows:
            return
        match message["type"]:
            case "point":
                fields = {name: message[name] for name in _POINT_FIELDS if name in message}
                point = MetricPoint.model_validate(fields)
                self._reporter.points.add(point)
                self._last.update(point.metrics)
                self._around.metrics.point(point.step, point.metrics)
            case "final":
                self._final = MetricPoint(step=0, metrics=message["metrics"]).metrics
            case "checkpoint":
                name = str(message["name"])
                if not name.isdigit():
                    raise ValueError("a checkpoint's name is a number")
                self._pending_checkpoint = name
                self._start_upload()

    async def _end(self, child: Child, result: JsonObject | None) -> Exit | None:
        """Wait for the process's end; None where it goes on to serve, or ends by itself with nothing left below it."""
        succeeded = result is not None and _state(result) == TrialState.SUCCEEDED
        if succeeded and not self._killed and not child.exited.done():
            if child.key:
                self._around.children.keep(child)
                return None
            if self._around.children.is_alone(child):
                self._around.children.part(child)
                return None
        try:
            done, _ = await asyncio.wait({child.exited}, timeout=EXIT_SECONDS)
            if not done:
                self._around.children.kill(child)
            return await child.exited
        finally:
            child.close()

    # --- orders

    @property
    def points(self) -> PointQueue:
        """Those that the driver does not know: they go with the result."""
        return self._reporter.points

    def _obey(self, order: Order, grace_seconds: float) -> None:
        self._order_deadline = min(self._order_deadline, time.monotonic() + grace_seconds)
        self._order = self._order or order
        self._changed.set()

    # --- checkpoints in the background

    def _start_upload(self) -> None:
        if self._uploading is None or self._uploading.done():
            self._uploading = asyncio.create_task(self._upload())

    async def _upload(self) -> None:
        """Upload the newest checkpoint; one that was announced meanwhile follows, those between are passed over."""
        while name := self._pending_checkpoint:
            self._pending_checkpoint = ""
            folder = self._directory / "checkpoints"
            await self._reporter.flush()  # whoever goes on from the checkpoint does not make its points again
            try:
                await self._storage.save_checkpoint(name, folder / name)
            except (StoreError, OSError) as error:
                print(f"archsearch: checkpoint {name} was not uploaded: {error}", flush=True)  # noqa: T201
            await asyncio.to_thread(_remove_older, folder, int(name))

    # --- how it ended

    def _ended_early(self) -> Outcome | None:
        if self._reporter.lost:
            return None
        if self._order == "stop":
            return Outcome(state=TrialState.PRUNED, metrics=self._last)
        return Outcome(
            state=TrialState.PENDING,
            metrics=self._last,
            failure=FailureClass.PREEMPTED,
            message="the worker has to go; the trial goes on from its newest checkpoint",
        )

    def _judge(self, result: JsonObject | None, ended: Exit | None, kills: int) -> Outcome | None:
        if self._reporter.lost:
            return None
        outcome = self._told(result) if result is not None else self._untold(ended)
        resources = outcome.resources
        if ended is not None:
            resources = resources.model_copy(
                update={
                    "wall_seconds": resources.wall_seconds or time.monotonic() - self._started,
                    "cpu_seconds": max(resources.cpu_seconds, ended.cpu_seconds),
                    "peak_memory_bytes": max(resources.peak_memory_bytes, ended.peak_memory_bytes),
                    "threads": self._threads,
                }
            )
        update: JsonObject = {"resources": resources}
        short_of_memory = outcome.failure in (FailureClass.USER_ERROR, FailureClass.INFRASTRUCTURE)
        if short_of_memory and self._around.cgroup.oom_kills() > kills:
            update |= {
                "failure": FailureClass.OUT_OF_MEMORY,
                "message": f"the kernel killed a process of the trial for memory: raise the limit. {outcome.message}",
            }
        return outcome.model_copy(update=update)

    def _told(self, result: JsonObject) -> Outcome:
        try:
            outcome = Outcome.model_validate(result["outcome"])
        except (ValidationError, KeyError) as error:
            return failed(FailureClass.USER_ERROR, f"the trial's process sent a result that cannot be used: {error}")
        if self._order == "stop" and outcome.state is TrialState.SUCCEEDED:
            return outcome.model_copy(update={"state": TrialState.PRUNED})
        return outcome

    def _untold(self, ended: Exit | None) -> Outcome:
        if self._killed == "grace":
            return self._ended_early() or failed(FailureClass.PREEMPTED, "")
        return silent(ended, self._killed, self._final, self.assignment.timeout_seconds)

    async def _deliver(self, outcome: Outcome | None, *, weights: bool) -> Outcome | None:
        """Upload what outlives the trial. Without the weights that were to be kept, the trial has not succeeded."""
        if outcome is None:
            return None
        if self._follows and outcome.state is not TrialState.FAILED:
            return outcome.model_copy(update={"metrics": {}, "payload": None})
        succeeded = outcome.state is TrialState.SUCCEEDED
        if outcome.state in (TrialState.SUCCEEDED, TrialState.PRUNED):
            self._pending_checkpoint = ""  # nobody goes on from there
        if self._uploading is not None:
            await self._uploading
        artifacts = dict(outcome.artifacts)
        try:
            if succeeded and weights:
                artifacts["checkpoint"] = await self._storage.save_weights(self._directory / "final")
            if succeeded and (target := self.assignment.params.get("target")):
                await self._storage.save(str(target), self._directory / "artifacts")
                artifacts["model"] = str(target)
        except (StoreError, OSError) as error:
            text = f"the store did not take the trial's files: {error}"
            outcome, artifacts, weights = failed(FailureClass.INFRASTRUCTURE, text, outcome.resources), {}, False
        if outcome.state is TrialState.FAILED or (succeeded and weights):
            artifacts |= await self._save_log(outcome)
        return outcome.model_copy(update={"artifacts": artifacts})

    async def _save_log(self, outcome: Outcome) -> dict[str, str]:
        tail = log_tail(self._directory / "log.txt")
        if not tail and outcome.state is TrialState.FAILED:
            tail = f"{outcome.message}\n".encode()
        if not tail:
            return {}
        try:
            return {"log": await self._storage.save_log(tail)}
        except (StoreError, OSError) as error:
            print(f"archsearch: the log's end was not uploaded: {error}", flush=True)  # noqa: T201
            return {}


def _state(result: JsonObject) -> Any:
    outcome = result.get("outcome")
    return outcome.get("state") if isinstance(outcome, dict) else None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _remove_older(folder: Path, newest: int) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.isdigit() and int(path.name) <= newest:
            shutil.rmtree(path, ignore_errors=True)
