"""Jobs of several pods that run a trial together: Kubernetes in memory, and processes of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.launch import SETTINGS, FakeApi, Told, ended, experiment_spec, pod

from archsearch.protocol import FailureClass
from archsearch.spec import names
from archsearch_strategies.launch import local
from archsearch_strategies.launch.base import WorkerLost
from archsearch_strategies.launch.kubernetes import KubernetesLauncher
from archsearch_strategies.launch.local import LocalLauncher
from archsearch_strategies.launch.tracking import Timing

QUICK = Timing(slow=0.05, look=0.02, look_most=0.05, relist=30.0, gone=0.05, retry=0.02, retry_most=0.05, rate=1000.0)


@asynccontextmanager
async def launched(api: FakeApi, **trials: Any) -> AsyncIterator[tuple[KubernetesLauncher, Told]]:
    launcher = KubernetesLauncher(SETTINGS, api, timing=QUICK)
    told = Told(api, experiment_spec(trials={"nodes": 2, **trials}))
    await launcher.start(told.context)
    try:
        yield launcher, told
    finally:
        await launcher.detach()


def sizes(api: FakeApi) -> list[int]:
    return sorted(job["spec"]["completions"] for job in api.jobs.values())


async def test_groups_are_made_beside_single_workers_and_one_after_another() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, _):
        launcher.ensure(2, 2)
        await api.until(lambda: sizes(api) == [1, 1, 2])
        group = next(name for name, job in api.jobs.items() if job["spec"]["completions"] == 2)
        api.set_status(group, ready=1)
        await asyncio.sleep(0.05)
        assert sizes(api) == [1, 1, 2], "two half groups could wait for each other's nodes for ever"
        api.set_status(group, ready=2)
        await api.until(lambda: sizes(api) == [1, 1, 2, 2])


async def test_a_group_of_an_earlier_driver_is_known_by_its_size() -> None:
    api = FakeApi()
    async with launched(api) as (first, _):
        first.ensure(0, 1)
        await api.until(lambda: sizes(api) == [2])
    (name,) = api.jobs
    api.jobs[name]["status"] = {"ready": 2}
    async with launched(api) as (second, _):
        second.ensure(1, 1)
        await api.until(lambda: sizes(api) == [1, 2])


async def test_a_pod_that_ends_is_told_by_its_name_and_its_job_replaces_it() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(0, 1)
        await api.until(lambda: bool(api.jobs))
        (name,) = api.jobs
        api.set_status(name, ready=2)
        api.pods = [ended(name, names.EXIT_TERMINATED, uid="1")]
        api.set_status(name, ready=1)
        await api.until(lambda: bool(told.lost))
        assert [(each.job, each.worker, each.failure) for each in told.lost] == [
            (name, f"{name}-1", FailureClass.PREEMPTED)
        ]
        assert sizes(api) == [2]
        assert api.deleted == []


async def test_why_one_pod_of_a_group_does_not_run_is_told() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(0, 1)
        await api.until(lambda: bool(api.jobs))
        (name,) = api.jobs
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}
        api.pods = [pod(name, "0", phase="Running"), pod(name, "1", conditions=[condition])]
        api.set_status(name, ready=1)
        await api.until(lambda: bool(told.waiting) and told.waiting[-1] is not None)
        assert told.waiting[-1] is not None
        assert "no GPU is free" in told.waiting[-1].message
        launcher.ensure(0, 0)
        await api.until(lambda: not api.jobs)  # nobody wants it any more, and it would wait for ever


async def test_a_group_of_which_one_is_done_and_the_others_wait_is_given_up() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(0, 1)
        await api.until(lambda: bool(api.jobs))
        (name,) = api.jobs
        api.set_status(name, ready=1, succeeded=1)
        await api.until(lambda: name in api.deleted and sizes(api) == [2])
        assert told.lost == []


# --- processes of this machine


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the worker: shows what it was given, then does what the test wrote."""
    path = tmp_path / "program"
    path.write_text(
        '#!/bin/sh\nto="$ARCHSEARCH_WORK_DIR/../../$ARCHSEARCH_WORKER_NAME"\n'
        'env > "$to.new" && mv "$to.new" "$to.env"\n. "$(dirname "$0")/does"\n'
    )
    path.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(path))
    monkeypatch.setattr(local, "_IN_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(local, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(local.Cgroup, "cpus", lambda self: 8)
    (tmp_path / "memory").mkdir()
    return path


def given(tmp_path: Path) -> list[dict[str, str]]:
    found = sorted((tmp_path / "memory").glob("*/*.env"))
    return [dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line) for path in found]


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def test_local_groups_know_their_number_and_each_other(tmp_path: Path, program: Path) -> None:
    (tmp_path / "does").write_text("exit 0\n")
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    told = Told(FakeApi(), experiment_spec(trials={"nodes": 2}, parallelTrials=2))
    await launcher.start(told.context)
    launcher.ensure(0, 1)
    await until(lambda: not launcher.alive() and not launcher._groups)
    found = given(tmp_path)
    await launcher.stop()
    assert [each[names.ENV_RANK] for each in found] == ["0", "1"]
    assert {(each[names.ENV_RANKS], each[names.ENV_ADDRESS], each[names.ENV_CPUS]) for each in found} == {
        ("2", "127.0.0.1", "2")
    }
    assert len({each[names.ENV_JOB_NAME] for each in found}) == 1
    assert told.lost == []


async def test_a_local_rank_that_is_killed_is_started_again_in_its_group(tmp_path: Path, program: Path) -> None:
    (tmp_path / "does").write_text("exec sleep 3600\n")
    launcher = LocalLauncher(log_dir=tmp_path / "logs")
    told = Told(FakeApi(), experiment_spec(trials={"nodes": 2}))
    await launcher.start(told.context)
    launcher.ensure(0, 1)
    await until(lambda: len(given(tmp_path)) == 2)
    victim = next(worker for worker in launcher._workers if "-1-" in worker.name.removeprefix(worker.job))
    os.kill(victim.process.pid, signal.SIGKILL)
    await until(lambda: len(given(tmp_path)) == 3)
    found = given(tmp_path)
    await launcher.stop(grace_seconds=1.0)
    assert sorted(each[names.ENV_RANK] for each in found) == ["0", "1", "1"]
    assert told.lost[0] == WorkerLost(victim.job, FailureClass.INFRASTRUCTURE, told.lost[0].message, worker=victim.name)
    assert launcher.alive() == 0
