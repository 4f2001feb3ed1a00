"""Real worker processes against a driver that only speaks the protocol."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archsearch.protocol import Assignment, KeepWeights, StorageRef, TrialKind
from archsearch.spec import names
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective, ZooSpace
from archsearch.worker import linux
from support.fake_driver import PATIENCE_SECONDS, FakeDriver

RUNNER = "worker_trials:run"
TRIALS = Path(__file__).parents[1] / "unit" / "worker"


@dataclass
class Worker:
    """One worker process with its driver, store and folders."""

    driver: FakeDriver
    root: Path
    process: subprocess.Popen[bytes] | None = None
    metrics_port: int = 0
    seen: set[int] = field(default_factory=set)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    def launch(self, *flags: str, token: str | None = None, runner: str = RUNNER, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "archsearch.worker", "--runner", runner, *flags],
            env=self._environment(token) | environment,
            stderr=(self.root / "stderr").open("wb"),
        )

    def launch_below(self, *flags: str, **environment: str) -> None:
        """Start the worker as a child of another process, which does nothing more: `process` is that one."""
        command = [sys.executable, "-m", "archsearch.worker", "--runner", RUNNER, *flags]
        code = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(3600)"
        self.process = subprocess.Popen([sys.executable, "-c", code], env=self._environment(None) | environment)

    def _environment(self, token: str | None) -> dict[str, str]:
        self.secrets.mkdir(exist_ok=True)
        (self.secrets / names.SECRET_TOKEN_KEY).write_text(f"{token or self.driver.token}\n")
        (self.secrets / "AWS_ACCESS_KEY_ID").write_text("an-access-key")
        (self.secrets / "AWS_SECRET_ACCESS_KEY").write_text("a-very-secret-key")
        return dict(os.environ) | {
            names.ENV_DRIVER_URL: self.driver.url,
            names.ENV_SECRETS_DIR: str(self.secrets),
            names.ENV_WORK_DIR: str(self.root / "work"),
            names.ENV_WORKER_NAME: "worker-1",
            names.ENV_JOB_NAME: "job-1",
            names.ENV_CODE_DIR: str(TRIALS),
            "AWS_SESSION_TOKEN": "a-session-token-of-the-environment",
        }

    def stderr(self) -> str:
        return (self.root / "stderr").read_text()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_SECONDS)

    def below(self) -> list[int]:
        """Every live process of this worker but the supervisor; remembered, to see later that none is left."""
        found = linux.descendants(self.pid)
        self.seen |= set(found)
        return found

    def trial(self, do: str, number: int = 1, kind: TrialKind = TrialKind.EVALUATE, **fields: Any) -> Assignment:
        params = fields.pop("params", {})
        return Assignment(
            experiment="test",
            kind=kind,
            number=number,
            folder=f"trials/{number}",
            model_space=ModelSpace(zoo=ZooSpace(name="nasbench201")),
            evaluator=fields.pop("evaluator", EvaluatorSpec(python="worker_trials:plain")),
            objectives=[Objective(metric="accuracy")],
            params={"do": do, **params},
            storage=StorageRef(uri=str(self.store)),
            keep_weights=fields.pop("keep_weights", KeepWeights.NEVER),
            **fields,
        )

    def run(self, do: str, **fields: Any) -> Any:
        return self.driver.run(self.trial(do, **fields)).outcome

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.below()
            self.process.kill()
            self.process.wait()
        for pid in self.seen:
            with contextlib.suppress(ProcessLookupError):
                until(lambda pid=pid: not alive(pid))
        self.driver.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that has to happen."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def make_worker(root: Path) -> Worker:
    driver = FakeDriver()
    driver.start()
    return Worker(driver, root)
