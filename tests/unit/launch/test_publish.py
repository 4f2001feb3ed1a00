"""Status: only what changed, nothing that a merge patch would leave behind, and never in the run's way."""

from __future__ import annotations

import asyncio
from typing import Any

from archsearch.spec.status import RunningTrial, SearchStatus, Verdict, Waiting
from archsearch_strategies.driver import publish
from archsearch_strategies.driver.publish import StatusPublisher
from archsearch_strategies.launch.kubeapi import ApiError


class Api:
    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.fail: list[ApiError] = []
        self.tried = 0
        self.changed = asyncio.Event()

    async def patch_status(self, name: str, status: dict[str, Any]) -> None:
        self.tried += 1
        if self.fail:
            raise self.fail.pop(0)
        self.written.append(status["search"])
        self.changed.set()


def status(progress: str, **fields: Any) -> SearchStatus:
    return SearchStatus(progress=progress, verdict=Verdict(accepted=True, state="Running"), **fields)


async def test_a_burst_is_one_write_of_the_newest() -> None:
    api = Api()
    publisher = StatusPublisher(api, "digits")
    for number in range(50):
        publisher(status(f"{number}/50"))
    task = asyncio.create_task(publisher.run())
    assert await publisher.finish(20)
    task.cancel()
    assert [each["progress"] for each in api.written] == ["49/50"]


async def test_what_is_absent_is_written_as_null() -> None:
    api = Api()
    publisher = StatusPublisher(api, "digits")
    publisher(status("1/2", waiting=Waiting(reason="Unschedulable", message="no node")))
    task = asyncio.create_task(publisher.run())
    await asyncio.wait_for(api.changed.wait(), 20)
    publisher(status("1/2"))
    assert await publisher.finish(20)
    task.cancel()
    assert api.written[-1]["waiting"] is None


async def test_an_estimate_and_steps_alone_are_not_written_at_once_but_at_the_end(monkeypatch: Any) -> None:
    monkeypatch.setattr(publish, "INTERVAL_SECONDS", 0.01)
    api = Api()
    publisher = StatusPublisher(api, "digits")
    publisher(status("1/2", eta="9 s"))
    task = asyncio.create_task(publisher.run())
    await asyncio.wait_for(api.changed.wait(), 20)
    running = [RunningTrial(number=1, kind="supernet", step=7)]
    publisher(status("1/2", eta="8 s", updated_time="2026-01-01T00:00:00Z", running=running))
    await asyncio.sleep(0.1)
    assert len(api.written) == 1
    assert await publisher.finish(20)
    task.cancel()
    assert [each["eta"] for each in api.written] == ["9 s", "8 s"]
    assert [[trial["step"] for trial in each["running"]] for each in api.written] == [[], [7]]


async def test_an_api_server_that_is_away_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(publish, "INTERVAL_SECONDS", 0.01)
    api = Api()
    api.fail = [ApiError(0, "Unreachable", "refused"), ApiError(503, "ServiceUnavailable", "starting")]
    publisher = StatusPublisher(api, "digits")
    publisher(status("1/2"))
    task = asyncio.create_task(publisher.run())
    assert await publisher.finish(20)
    task.cancel()
    assert api.tried == 3
    assert [each["progress"] for each in api.written] == ["1/2"]


async def test_a_deleted_experiment_ends_it() -> None:
    api = Api()
    api.fail = [ApiError(404, "NotFound", "gone")]
    publisher = StatusPublisher(api, "digits")
    publisher(status("1/2"))
    task = asyncio.create_task(publisher.run())
    assert await publisher.finish(20)
    await asyncio.wait_for(task, 20)
    assert publisher.gone.is_set()
