"""The lease protocol, message by message, against a real driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import BODY_LIMIT_BYTES, Outcome, TrialState
from archsearch.store import open_store
from archsearch_strategies.driver import Driver, Summary
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.launch.base import LaunchContext
from archsearch_strategies.ledger import read_ledger
from tests.support import fake_worker as fake

GOOD = Outcome(state=TrialState.SUCCEEDED, metrics={"accuracy": 0.5})
RELEASED = Outcome(state=TrialState.PENDING)


class NoWorkers(fake.FakeLauncher):
    """The test is the worker."""

    ephemeral = False

    def __init__(self) -> None:
        super().__init__()
        self.ready = asyncio.Event()

    async def start(self, context: LaunchContext) -> None:
        await super().start(context)
        self.ready.set()

    def ensure(self, workers: int) -> None:
        pass


async def until(done: Callable[[], bool]) -> None:
    """Wait for the driver; the test's own time-out ends it."""
    while not done():
        await asyncio.sleep(0.01)


class Running:
    """A driver whose search has begun, and a client."""

    def __init__(self, driver: Driver, task: asyncio.Task[Summary], client: fake.Client) -> None:
        self.driver, self.task, self.client = driver, task, client


@asynccontextmanager
async def running(folder: Path, *, lease_seconds: float = 30.0, **spec: Any) -> AsyncIterator[Running]:
    launcher = NoWorkers()
    driver = Driver(
        fake.experiment(**spec), open_store(str(folder)), launcher, token="t" * 32, lease_seconds=lease_seconds
    )
    task = asyncio.create_task(driver.run())
    await launcher.ready.wait()
    async with fake.Client(driver.url, "t" * 32) as client:
        if not (folder / "space.json").exists():
            described = (await client.lease(20.0))["grant"]
            assert described["assignment"]["kind"] == "describe"
            await client.result(described, await fake.evaluate(fake.Assignment.model_validate(described["assignment"])))
        await until(lambda: driver._search is not None)
        yield Running(driver, task, client)
    driver.request_stop()
    await task


async def test_wrong_token_version_and_nonsense(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        async with fake.Client(here.driver.url, "x" * 32) as stranger:
            assert (await stranger.post("lease", stranger.asking()))[0] == 401
        other = here.client.asking() | {"version": "0.0.9"}
        status, reply = await here.client.post("lease", other)
        assert (status, reply["error"]["reason"]) == (426, "VersionRefused")
        assert "0.0.9" in reply["error"]["message"]
        grant = (await here.client.lease(20.0))["grant"]
        start = f'{{"lease": "{grant["lease"]}", "fence": {{"epoch": 1, "counter": {grant["fence"]["counter"]}}}, '
        for body in (
            '"points": [{"step": 1, "metrics": {"a": NaN}}]}',
            '"points": [{"step": 1, "metrics": {"a": 1e999}}]}',
        ):
            assert (await here.client.post("report", start + body))[0] == 422
        assert (await here.client.post("result", start + '"outcome": {"state": "succeeded", "payload": Infinity}}'))[
            0
        ] == 422
        assert (await here.client.post("report", "{"))[0] == 422
        assert (await here.client.post("report", " " * (BODY_LIMIT_BYTES + 1)))[0] == 413
        assert (await here.client.post("nothing", {}))[0] == 404
        assert (await here.client.report(grant, points=[{"step": 1, "metrics": {"accuracy": 0.1}}]))[0] == 200


async def test_a_result_is_taken_once_and_acknowledged_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        first = await here.client.result(grant, GOOD)
        second = await here.client.result(grant, GOOD.model_copy(update={"metrics": {"accuracy": 0.9}}))
        assert first == second == (200, {"accepted": True})
        assert here.driver.table.rows[1].metrics == {"accuracy": 0.5}
        assert (await here.client.report(grant))[1]["action"] == "stop"


async def test_the_points_of_a_result_are_recorded_once(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        first, second = ({"step": step, "metrics": {"accuracy": step / 4}} for step in (1, 2))
        await here.client.report(grant, points=[first])
        for _ in range(2):  # the first reply may be lost
            await here.client.result(grant, GOOD, points=[second])
        assert [point.to_json() for point in here.driver.table.rows[1].points] == [first, second]
    table = TrialTable(here.driver.spec.objectives)
    table.replay(read_ledger(here.driver.store))
    assert [point.step for point in table.rows[1].points] == [1, 2]


async def test_a_result_brings_the_next_lease(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        _, reply = await here.client.result(grant, GOOD, here.client.asking())
        assert reply["next"]["grant"]["assignment"]["number"] == 2
        assert reply["next"]["grant"]["assignment"]["bestValue"] == 0.5


async def test_wrong_fence_and_unknown_lease(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        forged = grant | {"fence": {"epoch": 9, "counter": 1}}
        assert (await here.client.report(forged))[0] == 409
        assert (await here.client.result(forged, GOOD))[1] == {"accepted": False}
        assert (await here.client.report(grant | {"lease": "x" * 24}))[0] == 409


async def test_a_released_trial_is_leased_again_and_the_old_lease_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        old = (await here.client.lease(20.0))["grant"]
        for _ in range(2):  # the first reply may be lost
            assert (await here.client.result(old, RELEASED))[1] == {"accepted": True}
        new = (await here.client.lease(20.0))["grant"]
        assert (new["assignment"]["number"], new["assignment"]["attempt"]) == (1, 2)
        assert (await here.client.report(old))[0] == 409
        assert (await here.client.result(old, GOOD))[1] == {"accepted": False}
        assert (await here.client.result(new, GOOD))[1] == {"accepted": True}


async def test_an_expired_lease_is_claimed_back_or_its_result_taken(tmp_path: Path) -> None:
    async with running(tmp_path, parallelTrials=2) as here:
        first, second = [(await here.client.lease(20.0))["grant"] for _ in range(2)]
        book = here.driver.session.book
        now = book._now
        book.paused = True  # so that nobody leases them meanwhile
        book._now = lambda: now() + 1000
        book.expire()
        book._now = now
        assert here.driver.table.counts[TrialState.RUNNING] == 0
        assert (await here.client.report(first))[0] == 200
        assert here.driver.table.rows[1].state is TrialState.RUNNING
        assert (await here.client.result(second, GOOD))[1] == {"accepted": True}
        assert here.driver.table.rows[2].state is TrialState.SUCCEEDED
        assert book.expired == 2


async def test_an_expired_trial_goes_to_another(tmp_path: Path) -> None:
    async with running(tmp_path, lease_seconds=0.2) as here:
        old = (await here.client.lease(20.0))["grant"]
        new = (await here.client.lease(20.0))["grant"]
        assert (new["assignment"]["number"], new["assignment"]["attempt"]) == (1, 2)
        assert (await here.client.result(old, GOOD))[1] == {"accepted": False}


async def test_a_restarted_driver_leaves_trials_with_their_workers(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        done = (await here.client.result(grant, GOOD, here.client.asking(20.0)))[1]["next"]["grant"]
    async with running(tmp_path) as here:
        assert (await here.client.lease(0.0))["state"] == "wait"
        assert (await here.client.result(grant, GOOD))[1] == {"accepted": True}  # its reply was lost before
        assert (await here.client.report(done))[1] == {"action": "continue"}
        assert (await here.client.result(done, GOOD))[1] == {"accepted": True}
        assert sorted(here.driver.table.rows) == [1, 2, 3]


async def test_no_more_than_parallel_trials_are_out(tmp_path: Path) -> None:
    async with running(tmp_path, strategy="random", parallelTrials=2) as here:
        grants = [(await here.client.lease(20.0))["grant"] for _ in range(2)]
        assert (await here.client.lease(0.0))["state"] == "wait"
        waiting = asyncio.create_task(here.client.lease(20.0))
        await here.client.result(grants[0], GOOD)
        assert (await waiting)["grant"]["assignment"]["number"] == 3


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_no_secret_is_written_down(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        await here.client.result(grant, GOOD)
        assert "t" * 32 not in here.driver.status().model_dump_json()
    for content in contents(tmp_path):
        assert grant["lease"].encode() not in content
        assert b"t" * 32 not in content


@pytest.mark.parametrize("count", [3])
async def test_a_worker_that_dies_while_it_waits_gets_no_trial(tmp_path: Path, count: int) -> None:
    async with running(tmp_path) as here:
        grant = (await here.client.lease(20.0))["grant"]
        async with fake.Client(here.driver.url, "t" * 32) as doomed:
            waits = [asyncio.create_task(doomed.lease(20.0)) for _ in range(count)]
            book = here.driver.session.book
            await until(lambda: book.waiting == count)
        await asyncio.gather(*waits, return_exceptions=True)
        await until(lambda: book.waiting == 0)
        _, reply = await here.client.result(grant, GOOD, here.client.asking(20.0))
        assert reply["next"]["grant"]["assignment"]["number"] == 2
