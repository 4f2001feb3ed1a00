"""The local launcher: with a program in the worker's place, and once with real workers whose driver is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from archsearch.errors import UserError
from archsearch.protocol import FailureClass
from archsearch.spec import names
from archsearch.store import Credentials
from archsearch.worker import linux
from archsearch_strategies.launch import local
from archsearch_strategies.launch.base import LaunchContext, WorkerLost
from archsearch_strategies.launch.local import LocalLauncher
from tests.support import fake_worker as fake
from tests.support.workers import alive, until


def context(lost: list[WorkerLost]) -> LaunchContext:
    return LaunchContext(fake.experiment().spec, 1, "http://127.0.0.1:9", "t" * 32, lost.append, lambda waiting: None)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the worker: shows what it was given, then does what the test wrote."""
    path = tmp_path / "program"
    path.write_text('#!/bin/sh\nenv > "$ARCHSEARCH_WORK_DIR/../../env"\n. "$(dirname "$0")/does"\n')
    path.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(path))
    monkeypatch.setattr(local, "_IN_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(local, "FIRST_PAUSE_SECONDS", 0.01)
    (tmp_path / "memory").mkdir()
    return path


async def until_gone(launcher: LocalLauncher) -> None:
    while launcher.alive():
        await asyncio.sleep(0.01)


async def test_keys_go_by_file_and_not_by_environment(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from-the-shell")
    (tmp_path / "does").write_text('cp -r "$ARCHSEARCH_SECRETS_DIR" "$ARCHSEARCH_WORK_DIR/../../copy"; exit 0\n')
    lost: list[WorkerLost] = []
    launcher = LocalLauncher(log_dir=tmp_path / "logs", credentials=Credentials("key-id", "key"), code_dir=tmp_path)
    await launcher.start(context(lost))
    launcher.ensure(1)
    await until_gone(launcher)
    base = next((tmp_path / "memory").iterdir())
    assert base.stat().st_mode & 0o777 == 0o700
    assert "from-the-shell" not in (base / "env").read_text()
    assert "t" * 32 not in (base / "env").read_text()
    assert f"{names.ENV_CODE_DIR}={tmp_path}" in (base / "env").read_text()
    assert {path.name: path.read_text() for path in (base / "copy").iterdir()} == {
        "token": "t" * 32,
        "AWS_ACCESS_KEY_ID": "key-id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }
    await launcher.stop()
    assert lost == []
    assert list((tmp_path / "memory").iterdir()) == []


@pytest.mark.parametrize(
    ("code", "failure", "refused"),
    [
        (1, FailureClass.INFRASTRUCTURE, False),
        (names.EXIT_TERMINATED, FailureClass.PREEMPTED, False),
        (names.EXIT_REFUSED, FailureClass.INFRASTRUCTURE, True),
    ],
)
async def test_how_a_worker_ended_is_told(
    tmp_path: Path, program: Path, code: int, failure: FailureClass, refused: bool
) -> None:
    (tmp_path / "does").write_text(f"echo last words; exit {code}\n")
    lost: list[WorkerLost] = []
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    await launcher.start(context(lost))
    for _ in range(2):  # the second after the back-off's pause
        launcher.ensure(1)
        await until_gone(launcher)
    await launcher.stop()
    assert [(each.failure, each.refused) for each in lost] == [(failure, refused)] * 2
    assert "last words" in lost[0].message


@pytest.mark.parametrize(("parallel", "share"), [(1, 6), (2, 3), (4, 1), (12, 1)])
async def test_the_cores_are_shared_out(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, parallel: int, share: int
) -> None:
    monkeypatch.setattr(local.Cgroup, "cpus", lambda self: 6)
    (tmp_path / "does").write_text("exit 0\n")
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    shared = context([])
    shared.spec = fake.experiment(parallelTrials=parallel).spec
    await launcher.start(shared)
    launcher.ensure(1)
    await until_gone(launcher)
    environment = next((tmp_path / "memory").glob("*/env")).read_text()
    await launcher.stop()
    assert f"{names.ENV_CPUS}={share}\n" in environment


async def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    launcher = LocalLauncher(log_dir=tmp_path / "file" / "logs", code_dir=tmp_path)
    with pytest.raises(UserError, match=r"cannot lie in .*file: .*--storage"):
        await launcher.start(context([]))


async def test_stop_insists(tmp_path: Path, program: Path) -> None:
    (tmp_path / "does").write_text(
        "trap '' TERM; : > \"$ARCHSEARCH_WORK_DIR/../../up\"; while :; do sleep 0.05; done\n"
    )
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    await launcher.start(context([]))
    launcher.ensure(1)
    while not (list((tmp_path / "memory").glob("*/up")) and launcher.processes):
        await asyncio.sleep(0.01)
    (pid,) = launcher.processes
    await launcher.stop(grace_seconds=0.1)
    assert launcher.alive() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_a_killed_launcher_left_is_swept(tmp_path: Path, program: Path) -> None:
    stale = tmp_path / "memory" / "archsearch-local-999999999-x"
    mine = tmp_path / "memory" / f"archsearch-local-{os.getpid()}-x"
    stale.mkdir()
    mine.mkdir()
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    await launcher.start(context([]))
    await launcher.stop()
    assert not stale.exists()
    assert mine.exists()


CODE = """
import os, pathlib, time
from torch import nn
from archsearch.nn import LayerChoice
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = LayerChoice({"a": nn.Linear(2, 2), "b": nn.Identity()}, label="body")
    def forward(self, x):
        return self.body(x)
def hang(model, context):
    pathlib.Path(os.environ["NOTE"]).touch()
    time.sleep(3600)
"""
KILLED = """
import asyncio, pathlib, sys
from archsearch.spec import NASExperiment
from archsearch_strategies.driver.local import run_local
folder = pathlib.Path(sys.argv[1])
spec = {
    "objectives": [{"metric": "a"}], "strategy": {"name": "random"}, "evaluator": {"python": "hanging:hang"},
    "modelSpace": {"python": {"class": "hanging:Net", "inputShape": [2]}}, "budget": {"maxTrials": 2},
}
wanted = NASExperiment.model_validate({"metadata": {"name": "hang"}, "spec": spec})
asyncio.run(run_local(wanted, uri=str(folder / "run"), code_dir=folder))
"""


async def start_and_stop(launcher: LocalLauncher) -> None:
    await launcher.start(context([]))
    await launcher.stop()


def left_behind(pid: int) -> list[Path]:
    return [path for path in local._IN_MEMORY.glob(f"archsearch-local-{pid}-*/**/*") if path.is_file()]


def test_a_killed_driver_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(CODE)
    environment = os.environ | {"NOTE": str(tmp_path / "note")}
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment) as driver:
        try:
            until(lambda: (tmp_path / "note").exists() or driver.poll() is not None)
            below = linux.descendants(driver.pid)
        finally:
            driver.send_signal(signal.SIGKILL)
    assert len(below) >= 3  # supervisor, zygote, trial child
    until(lambda: not any(alive(pid) for pid in below))
    assert left_behind(driver.pid) == []
    asyncio.run(start_and_stop(LocalLauncher(log_dir=tmp_path / "logs")))
    assert not list(local._IN_MEMORY.glob(f"archsearch-local-{driver.pid}-*"))


async def test_a_temporary_folder_of_logs_stays_only_where_there_is_something_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for words in ("", "a warning"):
        launcher = LocalLauncher()
        await launcher.start(context([]))
        assert launcher.log_dir is not None
        (launcher.log_dir / "worker.log").write_text(words)
        await launcher.stop()
        assert launcher.log_dir.exists() is bool(words)
