"""Workers as processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsearch.errors import UserError
from archsearch.protocol import LOOPBACK, FailureClass
from archsearch.spec import names
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.pods import Isolation
from archsearch.store import Credentials
from archsearch.worker.limits import Cgroup
from archsearch_strategies.launch.base import LaunchContext, WorkerLost

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
GRACE_SECONDS = 8.0  # of a worker that has to go, within the grace that `stop` gives
LOG_TAIL_CHARACTERS = 800
_PREFIX = "archsearch-local-"
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - where there is one, secrets never reach a disk


@dataclass(eq=False)
class _Worker:
    name: str
    job: str  # its own name, or that of its group
    process: asyncio.subprocess.Process
    log: Path
    folder: Path


@dataclass
class _Place:
    """What is known after `start`. Secrets and scratch lie below `base`."""

    context: LaunchContext
    spec: ExperimentSpec
    base: Path
    logs: Path


class LocalLauncher:
    """Starts `python -m archsearch.worker` here. The workers die with this process, whatever ends it.

    Args:
        code_dir: put first on the path of trial children: the user's modules.
        log_dir: where the workers' logs go; a temporary folder where None.
        credentials: keys of the store, where it is a bucket; None: the worker has none but the machine's own.
        ca_bundle: PEM file for the store's endpoint.
        arguments: further arguments of each worker.
    """

    ephemeral = True

    def __init__(
        self,
        *,
        code_dir: Path | None = None,
        log_dir: Path | None = None,
        credentials: Credentials | None = None,
        ca_bundle: str = "",
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._code_dir = code_dir
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._arguments = arguments
        self._log_dir = log_dir
        self._started: _Place | None = None
        self._wanted = 0
        self._counter = 0
        self._starting = 0
        self._groups: set[str] = set()
        self._workers: set[_Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause = 0.0
        self._stopping = asyncio.Event()

    @property
    def log_dir(self) -> Path | None:
        """Where the workers' logs are; known after `start`."""
        return self._log_dir if self._started is None else self._started.logs

    @property
    def processes(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    async def start(self, context: LaunchContext) -> None:
        """Take the context. Starts nothing yet.

        Raises:
            UserError: the logs' folder cannot be made.
        """
        self._stopping.clear()
        logs = self._log_dir or Path(tempfile.mkdtemp(prefix="archsearch-logs-"))
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"the run cannot lie in {logs.parent}: {error.strerror or error}"
            raise UserError(f"{told}; name a folder that can be made and written (--storage)") from error
        parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
        _sweep(parent or Path(tempfile.gettempdir()))
        base = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        self._started = _Place(context, context.spec, base, logs)

    def ensure(self, workers: int, groups: int = 0) -> None:
        """Start workers until so many are alive, and so many groups of those that run a trial together."""
        if self._stopping.is_set():
            return
        self._wanted = workers
        for _ in range(workers - self._single() - self._starting):
            self._starting += 1
            self._run(self._run_worker())
        for _ in range(groups - len(self._groups)):
            self._counter += 1
            name = f"local-{os.getpid()}-{self._counter}"
            self._groups.add(name)
            self._run(self._run_group(name))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _single(self) -> int:
        return sum(worker.name == worker.job for worker in self._workers)

    def update(self, spec: ExperimentSpec) -> None:
        self._place.spec = spec

    def alive(self) -> int:
        """Workers alive or starting."""
        return len(self._workers) + self._starting

    async def stop(self, *, grace_seconds: float = 10.0) -> None:
        """Ask all to go, kill those that have not gone after the grace; returns when none is left."""
        self._wanted = 0
        self._stopping.set()
        for worker in list(self._workers):
            _send(worker.process, signal.SIGTERM)
        waiting = [asyncio.ensure_future(worker.process.wait()) for worker in self._workers]
        if waiting:
            await asyncio.wait(waiting, timeout=grace_seconds)
        for worker in list(self._workers):
            _send(worker.process, signal.SIGKILL)
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._started is not None:
            shutil.rmtree(self._started.base, ignore_errors=True)
            if self._log_dir is None and not any(log.stat().st_size for log in self._started.logs.glob("*")):
                shutil.rmtree(self._started.logs, ignore_errors=True)  # ours, and nothing to read in it

    @property
    def _place(self) -> _Place:
        if self._started is None:
            raise RuntimeError("the launcher was not started")
        return self._started

    async def _run_worker(self) -> None:
        """One worker from start to end, after the back-off's pause."""
        try:
            await self._back_off()
            if self._stopping.is_set() or self._single() >= self._wanted:
                return
            worker = await self._spawn()
        finally:
            self._starting -= 1
        await self._follow(worker)

    async def _run_group(self, name: str) -> None:
        """Workers that run trials together, each until it is done; one that ends before is started again."""
        try:
            await asyncio.gather(*(self._run_rank(name, rank) for rank in range(self._place.spec.trials.nodes)))
        finally:
            self._groups.discard(name)

    async def _run_rank(self, group: str, rank: int) -> None:
        while not self._stopping.is_set():
            if await self._follow(await self._spawn(group, rank)) == names.EXIT_DONE:
                return
            await self._back_off()

    async def _back_off(self) -> None:
        if self._pause:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause)

    async def _follow(self, worker: _Worker) -> int:
        """To its end, which is told; gives back its exit code."""
        self._workers.add(worker)
        try:
            if self._stopping.is_set():
                _send(worker.process, signal.SIGKILL)
            status = await worker.process.wait()
        except asyncio.CancelledError:
            _send(worker.process, signal.SIGKILL)
            await worker.process.wait()
            raise
        finally:
            self._workers.discard(worker)
            shutil.rmtree(worker.folder, ignore_errors=True)
        self._ended(worker, status)
        return status

    async def _spawn(self, group: str = "", rank: int = 0) -> _Worker:
        place = self._place
        context, spec = place.context, place.spec
        self._counter += 1
        name = f"{group}-{rank}-{self._counter}" if group else f"local-{os.getpid()}-{self._counter}"
        folder = place.base / name
        self._write_secrets(folder / "secrets", context.token)
        (folder / "work").mkdir()
        per_job = 1 if spec.trials.isolation is Isolation.POD else spec.trials.per_job
        log = place.logs / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "archsearch.worker",
                "--die-with-parent",
                "--grace-seconds",
                str(GRACE_SECONDS),
                "--per-job",
                str(per_job),
                *self._arguments,
                env=self._environment(name, folder, context.lease_url) | self._member(group, rank),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the driver, which then asks the workers
            )
        return _Worker(name, group or name, process, log, folder)

    def _environment(self, name: str, folder: Path, url: str) -> dict[str, str]:
        """This process's environment without its keys, and what the worker is told."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment |= {
            names.ENV_DRIVER_URL: url,
            names.ENV_SECRETS_DIR: str(folder / "secrets"),
            names.ENV_WORK_DIR: str(folder / "work"),
            names.ENV_WORKER_NAME: name,
            names.ENV_JOB_NAME: name,
            # Two workers that each took all cores would wait for each other's threads at every operation.
            names.ENV_CPUS: str(max(1, Cgroup().cpus() // self._place.spec.parallel_trials)),
        }
        if self._code_dir is not None:
            environment[names.ENV_CODE_DIR] = str(self._code_dir)
        return environment

    def _member(self, group: str, rank: int) -> dict[str, str]:
        """What one of a group is told beside."""
        if not group:
            return {}
        spec = self._place.spec
        return {
            names.ENV_JOB_NAME: group,
            names.ENV_RANK: str(rank),
            names.ENV_RANKS: str(spec.trials.nodes),
            names.ENV_ADDRESS: LOOPBACK,
            names.ENV_CPUS: str(max(1, Cgroup().cpus() // (spec.parallel_trials * spec.trials.nodes))),
        }

    def _write_secrets(self, folder: Path, token: str) -> None:
        folder.parent.mkdir(mode=0o700)
        folder.mkdir(mode=0o700)
        secrets = {names.SECRET_TOKEN_KEY: token}
        if self._credentials is not None:
            keys = self._credentials
            values = (keys.access_key, keys.secret_key, keys.session_token)
            secrets |= {key: value for key, value in zip(names.STORAGE_SECRET_KEYS, values, strict=True) if value}
        if self._ca_bundle:
            secrets["ca.crt"] = Path(self._ca_bundle).read_text()
        for key, value in secrets.items():
            path = folder / key
            path.touch(mode=0o600)
            path.write_text(value)

    def _ended(self, worker: _Worker, status: int) -> None:
        if status == names.EXIT_DONE or self._stopping.is_set():
            self._pause = 0.0
            return
        told_to_go = status in (names.EXIT_TERMINATED, -signal.SIGTERM)
        self._pause = 0.0 if told_to_go else min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * self._pause))
        how = f"was ended by signal {-status}" if status < 0 else f"ended with exit code {status}"
        message = f"worker {worker.name} {how}; its log: {worker.log}{_tail(worker.log)}"
        failure = FailureClass.PREEMPTED if told_to_go else FailureClass.INFRASTRUCTURE
        refused = status == names.EXIT_REFUSED
        self._place.context.on_lost(WorkerLost(worker.job, failure, message, refused, worker.name))


def _sweep(parent: Path) -> None:
    """Remove what launchers that were killed left behind; they could not do so themselves."""
    for path in parent.glob(f"{_PREFIX}[0-9]*-*"):
        with contextlib.suppress(OSError, ValueError):
            owner = int(path.name.removeprefix(_PREFIX).split("-")[0])
            if path.stat().st_uid == os.getuid() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(path, ignore_errors=True)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _tail(log: Path) -> str:
    try:
        text = log.read_text(errors="replace").strip()
    except OSError:
        return ""
    return f"\n{text[-LOG_TAIL_CHARACTERS:]}" if text else ""
