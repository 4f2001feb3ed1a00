"""The supervisor: leases trials, has them run, reports how they ended. No torch, no user code; it alone has secrets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import archsearch
from archsearch.errors import UserError
from archsearch.protocol import (
    FailureClass,
    Grant,
    LeaseReply,
    LeaseRequest,
    MetricPoint,
    Outcome,
    ResultReply,
    ResultRequest,
    TrialState,
)
from archsearch.spec.names import EXIT_DONE, EXIT_REFUSED, EXIT_TERMINATED
from archsearch.worker import limits, linux
from archsearch.worker.children import Children
from archsearch.worker.client import LeaseClient, LeaseLost, Refused, Rejected, Unreachable
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.points import REPORT_BYTES
from archsearch.worker.processes import Zygote
from archsearch.worker.settings import Secrets, WorkerSettings, child_environment, take_secrets
from archsearch.worker.storage import Stores
from archsearch.worker.trial_run import Surroundings, TrialRun

EXIT_FAILED = 1
FIRST_POLL_SECONDS = 2.0  # until the driver has said how long a worker may be idle
LONG_POLL_SECONDS = 10.0
NEXT_POLL_SECONDS = 0.2  # how long the answer to a result may wait for the next trial
BACKOFF_SECONDS = (0.2, 5.0)  # first and longest pause while the driver does not answer
HURRY_SECONDS = 1.0  # grace after a second signal
FAREWELL_SECONDS = 8.0  # for uploads and the result, after the trial's own grace
_T = TypeVar("_T")


class _Ending(Exception):
    """This worker ends with an exit code."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def run(settings: WorkerSettings, parent: int) -> int:
    """Serve until there is nothing more to do; returns the exit code.

    Raises:
        UserError: the secrets or the working directory cannot be used.
    """
    linux.hide_memory()
    linux.adopt_orphans()
    if settings.die_with_parent:
        linux.die_with_parent(parent, signal.SIGTERM)
    else:
        parent = 0
    secrets = take_secrets(settings.secrets_dir)
    try:
        (settings.work_dir / "cache").mkdir(parents=True, exist_ok=True)
        base = Path(tempfile.mkdtemp(prefix="worker-", dir=settings.work_dir))
    except OSError as error:
        raise UserError(f"the working directory {settings.work_dir} must be writable: {error}") from error
    try:
        return asyncio.run(Supervisor(settings, secrets, base, parent).serve())
    finally:
        linux.sweep()
        shutil.rmtree(base, ignore_errors=True)


class Supervisor:
    """One worker's life. `serve` may be called once.

    Args:
        base: a folder of its own, removed by whoever made it.
        parent: the process that it goes with; 0: none.
    """

    def __init__(self, settings: WorkerSettings, secrets: Secrets, base: Path, parent: int = 0) -> None:
        self._settings = settings
        self._secrets = secrets
        self._base = base
        self._parent = parent
        self._device = limits.gpu_name()
        self._metrics = WorkerMetrics(archsearch.__version__, self._device)
        self._served = 0
        self._signals = 0
        self._terminating = asyncio.Event()
        self._deadline = 0.0
        self._trial: TrialRun | None = None

    async def serve(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        if self._settings.metrics_port:
            try:
                self._metrics.serve(self._settings.metrics_port)
            except OSError as error:
                raise UserError(f"metrics cannot be served on port {self._settings.metrics_port}: {error}") from error
        environment = child_environment(os.environ, self._settings.code_dir)
        children = Children(lambda: Zygote(environment, self._base, self._settings.runner), self._metrics)
        client = LeaseClient(self._settings.driver_url, self._secrets.token)
        self._client = client
        self._around = Surroundings(
            self._settings,
            client,
            children,
            Stores(self._secrets, self._base / "inputs"),
            self._metrics,
            limits.Cgroup(),
            self._base,
        )
        children.start()
        try:
            await self._work()
            raise AssertionError("unreachable")
        except _Ending as ending:
            if str(ending):
                print(f"archsearch worker {self._settings.worker}: {ending}", file=sys.stderr, flush=True)  # noqa: T201
            return ending.code
        finally:
            await children.stop()
            await client.close()

    def _on_signal(self) -> None:
        if self._parent and os.getppid() != self._parent:
            self._drop_everything()
        self._signals += 1
        grace = self._settings.grace_seconds if self._signals == 1 else HURRY_SECONDS
        self._deadline = time.monotonic() + grace + (FAREWELL_SECONDS if self._signals == 1 else HURRY_SECONDS)
        self._terminating.set()
        if self._trial is not None:
            self._trial.release(grace)

    def _drop_everything(self) -> NoReturn:
        """The driver was this process's parent and is gone: nobody takes a lease back or hears of a checkpoint."""
        linux.sweep()
        shutil.rmtree(self._base, ignore_errors=True)
        os._exit(EXIT_TERMINATED)

    async def _work(self) -> None:
        following: Grant | None = None
        while True:
            grant = following or await self._lease()
            following = None
            if self._terminating.is_set():
                await self._finish(grant, _given_back(), [])
                raise _Ending(EXIT_TERMINATED)
            outcome, points = await self._run(grant)
            self._served += 1
            reply = await self._finish(grant, outcome, points) if outcome is not None else None
            if self._terminating.is_set():
                if reply is not None and reply.grant is not None:
                    await self._finish(reply.grant, _given_back(), [])
                raise _Ending(EXIT_TERMINATED)
            if self._around.children.hopeless:
                raise _Ending(EXIT_FAILED, "no trial process could be started several times in a row")
            if self._is_last():
                raise _Ending(EXIT_DONE)
            following = self._next(reply)

    async def _run(self, grant: Grant) -> tuple[Outcome | None, list[MetricPoint]]:
        trial = TrialRun(grant, self._around, self._base / f"trial-{self._served}")
        kind, start = grant.assignment.kind.value, time.monotonic()
        self._trial = trial
        self._metrics.running.set(1)
        try:
            outcome = await trial.outcome()
        finally:
            self._trial = None
            self._metrics.running.set(0)
        self._metrics.trial_seconds.labels(kind).observe(time.monotonic() - start)
        result = "lost" if outcome is None else (outcome.failure or outcome.state).value
        self._metrics.trials.labels(kind, result).inc()
        return outcome, trial.points.take(REPORT_BYTES)

    # --- leases

    def _is_last(self) -> bool:
        """Of several workers of one Job none goes by itself: the driver tells all."""
        return self._settings.ranks == 1 and bool(self._settings.per_job) and self._served >= self._settings.per_job

    def _next(self, reply: LeaseReply | None) -> Grant | None:
        if reply is None or reply.state == "wait":
            return None  # that was a short poll: ask again with a long one
        if reply.state == "done":
            raise _Ending(EXIT_DONE)
        return reply.grant

    def _request(self, wait_seconds: float) -> LeaseRequest:
        return LeaseRequest(
            version=archsearch.__version__,
            worker=self._settings.worker,
            job=self._settings.job,
            served=self._served,
            wait_seconds=wait_seconds,
            device=self._device,
            **self._as_member(),
        )

    def _as_member(self) -> dict[str, Any]:
        """What one of several workers says of itself."""
        here = self._settings
        if here.ranks == 1:
            return {}
        found: dict[str, Any] = {"rank": here.rank, "ranks": here.ranks}
        if here.rank == 0:
            found |= {"address": here.address, "port": here.port or linux.free_port(here.address)}
        return found

    async def _lease(self) -> Grant:
        """Ask until there is a trial. Waiting for a driver that does not answer is not idleness."""
        asked = time.monotonic()
        idle_since: float | None = None
        poll = LONG_POLL_SECONDS if self._served else FIRST_POLL_SECONDS
        while True:
            start = time.monotonic()
            reply = await self._unless_terminated(self._until_reached(partial(self._client.lease, self._request(poll))))
            if reply.state == "done":
                raise _Ending(EXIT_DONE)
            if reply.state == "granted" and reply.grant is not None:
                self._metrics.lease_wait.observe(time.monotonic() - asked)
                return reply.grant
            now = time.monotonic()
            idle_since = start if idle_since is None else idle_since
            left = idle_since + reply.idle_seconds - now
            if left <= 0:
                raise _Ending(EXIT_DONE)
            if now - start < poll / 2:  # the driver did not hold the poll
                await self._unless_terminated(asyncio.sleep(min(reply.retry_seconds, left)))
            poll = max(0.0, min(LONG_POLL_SECONDS, idle_since + reply.idle_seconds - time.monotonic()))

    async def _unless_terminated(self, action: Awaitable[_T]) -> _T:
        """The result of `action`, which is cancelled when this worker has to go.

        Raises:
            _Ending: it has to go, and the action had not ended.
        """
        task = asyncio.ensure_future(action)
        told = asyncio.ensure_future(self._terminating.wait())
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Unreachable):
            await task
        raise _Ending(EXIT_TERMINATED)

    async def _until_reached(
        self, action: Callable[[], Awaitable[_T]], deadline: Callable[[], float] | None = None
    ) -> _T:
        """Try until the driver answers, for ever or until `deadline`.

        Raises:
            _Ending: it refuses this worker, or the time is over.
        """
        pause, longest = BACKOFF_SECONDS
        told = False
        while True:
            try:
                return await action()
            except Unreachable as error:
                if deadline is not None and time.monotonic() > deadline():
                    raise _Ending(EXIT_TERMINATED, str(error)) from error
                if not told:
                    print(f"archsearch worker {self._settings.worker}: {error}; trying on", file=sys.stderr, flush=True)  # noqa: T201
                    told = True
            except Refused as error:
                raise _Ending(EXIT_REFUSED, str(error)) from error
            except Rejected as error:
                raise _Ending(EXIT_FAILED, str(error)) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(longest, pause * 2)

    # --- results

    async def _finish(self, grant: Grant, outcome: Outcome, points: list[MetricPoint]) -> LeaseReply | None:
        """Hand in a result, however long the driver is away. Returns its answer to the question for the next trial."""
        reply = await self._hand_in(grant, outcome, points)
        return reply.next if reply is not None else None

    async def _hand_in(self, grant: Grant, outcome: Outcome, points: list[MetricPoint]) -> ResultReply | None:
        async def post() -> ResultReply | None:
            ask = not self._terminating.is_set() and not self._is_last()
            request = ResultRequest(
                lease=grant.lease,
                fence=grant.fence,
                outcome=outcome,
                points=points,
                next=self._request(NEXT_POLL_SECONDS) if ask else None,
                worker=self._settings.worker,
                job=self._settings.job,
                rank=self._settings.rank,
            )
            try:
                return await self._client.result(request)
            except LeaseLost:
                return None

        try:
            return await self._until_reached(_rejections(post), self._result_deadline)
        except _RejectedResult as rejected:
            outcome = Outcome(
                state=TrialState.FAILED,
                failure=FailureClass.USER_ERROR,
                message=f"the trial's result cannot be handed in: {rejected}",
                resources=outcome.resources,
            )
            points = []
            return await self._until_reached(post, self._result_deadline)

    def _result_deadline(self) -> float:
        return self._deadline if self._terminating.is_set() else float("inf")


class _RejectedResult(Exception):
    """The driver cannot use this result; a plain failure in its place it can."""


def _rejections(action: Callable[[], Awaitable[_T]]) -> Callable[[], Awaitable[_T]]:
    async def wrapped() -> _T:
        try:
            return await action()
        except Rejected as error:
            raise _RejectedResult(str(error)) from error

    return wrapped


def _given_back() -> Outcome:
    return Outcome(
        state=TrialState.PENDING,
        failure=FailureClass.PREEMPTED,
        message="the worker has to go; the trial had not begun",
    )
