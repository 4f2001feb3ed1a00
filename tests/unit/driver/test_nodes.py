"""A supernet trial of two workers on this machine, whole: undisturbed, and with ranks that die at the worst moments."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archsearch import registry
from archsearch.protocol import FailureClass, TrialKind, TrialState
from archsearch.spec.experiment import NASExperiment
from archsearch.store.checkpoint import read_checkpoint
from archsearch.worker import linux
from archsearch_strategies.driver import Driver
from archsearch_strategies.driver.local import run_local
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig

TRAINER = {"epochs": 3, "batchSize": 16, "checkpointSteps": 2}
RUNNER = """
import os, pathlib, time
from archsearch.evaluate.kinds import run_kind
from archsearch.supernet import run as engine

NOTES = pathlib.Path(os.environ["NOTES"])

def run(context):
    if not context.assignment.params.get("disturbed"):
        return run_kind(context)
    real, member, attempt = engine.find_trainer, context.member, context.assignment.attempt
    def disturbed(name):
        class Disturbed(real(name)):
            def step(self, epoch, step):
                if self.bench.done == 5:
                    (NOTES / f"{member.rank}-{attempt}").touch()
                    while not (NOTES / "go").exists():
                        time.sleep(0.01)
                if self.bench.done == 9 and member.rank == 1 and attempt == 2:
                    os._exit(7)
                return super().step(epoch, step)
        return Disturbed
    engine.find_trainer = disturbed
    return run_kind(context)
"""


class TwoSupernets(Strategy[StrategyConfig]):
    kinds = (TrialKind.SUPERNET,)

    async def search(self, run: Run) -> None:
        for disturbed in (False, True):
            params = {"trainer": "gdas", "config": TRAINER, "disturbed": disturbed}
            await run.trial(TrialKind.SUPERNET, params=params)


def experiment() -> NASExperiment:
    spec = {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 2, "cells": 1}}},
        "strategy": {"name": "one"},
        "evaluator": {
            "name": "classification",
            "config": {"dataset": "digits", "trainSize": 128, "validationSize": 32},
        },
        "trials": {"nodes": 2, "threads": 1, "retries": {"userError": 1}},
        "retrain": {"topK": 0},
    }
    return NASExperiment.model_validate({"metadata": {"name": "nodes"}, "spec": spec})


async def until(met: Callable[[], bool]) -> None:
    while not met():
        await asyncio.sleep(0.02)


async def kill(driver: Driver, notes: Path) -> None:
    """Rank 1's worker, once a checkpoint is known and rank 0 hangs: that is told, and does not wait for ever."""
    await until(lambda: 2 in driver.table.rows and bool(driver.table.rows[2].checkpoint))
    await until(lambda: (notes / "0-1").exists() and (notes / "1-1").exists())
    victim = next(each for each in driver.launcher._workers if f"{each.job}-1-" in each.name)  # type: ignore[attr-defined]
    os.kill(victim.process.pid, signal.SIGKILL)
    await until(lambda: (notes / "0-2").exists() and (notes / "1-2").exists())
    (notes / "go").touch()


@pytest.mark.timeout(300)
async def test_ranks_that_die_cost_time_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.find
    monkeypatch.setattr(
        registry, "find", lambda group, name: TwoSupernets if group == "archsearch.strategies" else real(group, name)
    )
    monkeypatch.setattr(registry, "registered", lambda group: ["one", "classification", "nasbench201"])
    (tmp_path / "disturbed.py").write_text(RUNNER)
    monkeypatch.setenv("NOTES", str(tmp_path))
    drivers: list[Driver] = []
    options: dict[str, Any] = {"worker_arguments": ("--runner", "disturbed:run"), "on_driver": drivers.append}
    running = asyncio.create_task(run_local(experiment(), uri=str(tmp_path / "run"), code_dir=tmp_path, **options))
    await until(lambda: bool(drivers))
    killing = asyncio.create_task(kill(drivers[0], tmp_path))
    await asyncio.wait({running})
    killing.cancel()  # where the run ended before it came to that
    await running
    quiet, disturbed = drivers[0].table.rows[1], drivers[0].table.rows[2]
    assert (quiet.state, quiet.attempts, quiet.message) == (TrialState.SUCCEEDED, 1, "")
    assert (disturbed.state, disturbed.attempts) == (TrialState.SUCCEEDED, 3)
    # The first by the launcher's word; the second by the rank that ended, not by the one that only missed it.
    assert disturbed.failures == Counter({FailureClass.INFRASTRUCTURE: 1, FailureClass.USER_ERROR: 1})
    assert disturbed.metrics == quiet.metrics
    assert disturbed.payload == quiet.payload
    (mine, _), (theirs, _) = (
        read_checkpoint(tmp_path / "run" / row.artifacts["checkpoint"]) for row in (quiet, disturbed)
    )
    assert mine.keys() == theirs.keys()
    assert all(mine[name].equal(theirs[name]) for name in mine)
    curves = [[point.to_json() for point in row.points] for row in (quiet, disturbed)]
    assert [point["step"] for point in curves[0]] == [0, 1, 2]
    # What was on its way when its attempt ended is not told again; all that was told is the same.
    assert curves[1][-1] == curves[0][-1]
    assert all(point in curves[0] for point in curves[1])
    assert linux.descendants(os.getpid()) == []
