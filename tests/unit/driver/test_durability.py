"""A driver that is killed at any moment, and one that meets another."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from archsearch.errors import Fenced
from archsearch.protocol import Assignment, Outcome
from archsearch.store import open_store
from archsearch_strategies.driver import Driver
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake

ROOT = Path(__file__).parents[3]


def start(folder: Path, parallel: int, trials: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.fake_worker", str(folder), str(parallel), str(trials), "7"]
    return subprocess.Popen([*command, "regularized-evolution"], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(folder: Path, parallel: int, trials: int) -> dict[str, Any]:
    process = start(folder, parallel, trials)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def kill_after(folder: Path, parallel: int, trials: int, lines: int) -> None:
    process = start(folder, parallel, trials)
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline().startswith("trial")
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_whole(folder: Path, trials: int) -> None:
    """Every trial submitted once, one result each, handed over once."""
    records = list(read_ledger(open_store(str(folder))))
    for kind in ("submitted", "result", "handed"):
        numbers = sorted(record["number"] for record in records if record["type"] == kind)
        assert numbers == list(range(1, trials + 1)), kind


@pytest.mark.parametrize("parallel", [1, 4])
def test_killed_ten_times(tmp_path: Path, parallel: int) -> None:
    trials = 40
    choice = random.Random(parallel)
    for _ in range(10):
        kill_after(tmp_path / "killed", parallel, trials, choice.randint(0, 4))
    killed = finish(tmp_path / "killed", parallel, trials)
    assert killed["state"] == "Succeeded"
    assert killed["trials"]["succeeded"] + killed["trials"]["cached"] == trials
    assert_whole(tmp_path / "killed", trials)
    if parallel == 1:
        undisturbed = finish(tmp_path / "undisturbed", parallel, trials)
        assert killed["historyHash"] == undisturbed["historyHash"]


async def test_a_second_driver_makes_the_first_one_exit(tmp_path: Path) -> None:
    wanted = fake.experiment(budget={"maxTrials": 6})
    hold = asyncio.Event()
    reached = asyncio.Event()

    async def held(assignment: Assignment) -> Outcome:
        if assignment.number == 3:
            reached.set()
            await hold.wait()
        return await fake.evaluate(assignment)

    first = asyncio.create_task(fake.run(tmp_path, wanted, fake.FakeLauncher(held)))
    await reached.wait()
    summary = await fake.run(tmp_path, wanted, lease_seconds=1.0)
    hold.set()
    with pytest.raises(Fenced, match="another driver"):
        await first
    assert summary.state == "Succeeded"
    assert_whole(tmp_path, 6)


async def test_stopped_in_order_and_resumed(tmp_path: Path) -> None:
    wanted = fake.experiment("regularized-evolution", {"population": 4, "sample": 2}, seed=3)
    launcher = fake.FakeLauncher()
    driver = Driver(wanted, open_store(str(tmp_path / "a")), launcher)

    async def until_five(assignment: Assignment) -> Outcome:
        if assignment.number == 5:
            driver.request_stop()
        return await fake.evaluate(assignment)

    launcher.evaluate = until_five
    stopped = await driver.run()
    assert stopped.state == "Stopped"
    again = await fake.run(tmp_path / "a", wanted)
    whole = await fake.run(tmp_path / "b", wanted)
    assert again.state == whole.state == "Succeeded"
    assert again.history_hash == whole.history_hash
    assert_whole(tmp_path / "a", 12)


async def test_a_finished_run_is_answered_from_its_ledger(tmp_path: Path) -> None:
    wanted = fake.experiment()
    first = await fake.run(tmp_path, wanted)
    launcher = fake.FakeLauncher()
    second = await fake.run(tmp_path, wanted, launcher)
    assert launcher.granted == []
    assert (second.history_hash, second.reason, second.best) == (first.history_hash, first.reason, first.best)
    assert json.loads((tmp_path / "summary.json").read_text())["historyHash"] == first.history_hash
