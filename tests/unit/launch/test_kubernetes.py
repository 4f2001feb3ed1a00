"""The launcher against an API server in memory: it keeps the number, tells what is wrong, cleans up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.launch import SETTINGS, FakeApi, Told, ended, experiment_spec, pod

from archsearch.protocol import FailureClass
from archsearch.spec import names, reasons
from archsearch_strategies.launch.kubeapi import ApiError
from archsearch_strategies.launch.kubernetes import KubernetesLauncher
from archsearch_strategies.launch.manifests import lease_url, trial_job
from archsearch_strategies.launch.tracking import Timing, TokenBucket

QUICK = Timing(slow=0.05, look=0.02, look_most=0.05, relist=30.0, gone=0.05, retry=0.02, retry_most=0.05, rate=1000.0)


@asynccontextmanager
async def launched(
    api: FakeApi, *, timing: Timing = QUICK, **changes: Any
) -> AsyncIterator[tuple[KubernetesLauncher, Told]]:
    launcher, told = KubernetesLauncher(SETTINGS, api, timing=timing), Told(api, experiment_spec(**changes))
    await launcher.start(told.context)
    try:
        yield launcher, told
    finally:
        await launcher.detach()


def existing(api: FakeApi, name: str, **status: Any) -> None:
    job = trial_job(experiment_spec(), SETTINGS, name=name, url=lease_url(SETTINGS))
    api.jobs[name] = {**job, "status": status}


async def test_creates_what_is_wanted_with_names_of_the_epoch() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, _):
        launcher.ensure(3)
        await api.until(lambda: len(api.created) == 3)
        assert sorted(api.created) == ["digits-t3-1", "digits-t3-2", "digits-t3-3"]
        assert launcher.alive() == 3


async def test_a_done_worker_is_deleted_and_replaced_while_wanted() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: api.created == ["digits-t3-1"])
        api.set_status("digits-t3-1", ready=1)
        api.end("digits-t3-1")
        await api.until(lambda: "digits-t3-1" in api.deleted and api.created == ["digits-t3-1", "digits-t3-2"])
        assert told.lost == []


async def test_takes_over_an_earlier_drivers_jobs() -> None:
    api = FakeApi()
    existing(api, "digits-t3-7", ready=1)
    existing(api, "digits-t0-1", ready=1)
    async with launched(api) as (launcher, _):
        launcher.ensure(3)
        await api.until(lambda: bool(api.created))
        assert api.created == ["digits-t3-8"]
        assert launcher.alive() == 3
        assert api.deleted == []


async def test_a_lost_reply_makes_no_second_job() -> None:
    api = FakeApi()
    api.lose_reply = True
    async with launched(api) as (launcher, _):
        launcher.ensure(1)
        await api.until(lambda: launcher.alive() == 1)
        await api.until(lambda: not api.refuse)
        assert list(api.jobs) == ["digits-t3-1"]


async def test_a_name_that_is_taken_by_a_dead_job_is_passed_over() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, _):
        await api.until(lambda: bool(api.watches))
        existing(api, "digits-t3-1", conditions=[{"type": "Complete", "status": "True"}])
        launcher.ensure(1)
        await api.until(lambda: "digits-t3-2" in api.created)
        assert launcher.alive() == 1


async def test_quota_is_told_and_tried_again() -> None:
    api = FakeApi()
    api.refuse = [ApiError(403, "Forbidden", "exceeded quota: jobs.batch=3")]
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(told.waiting))
        assert told.waiting[0] is not None
        assert told.waiting[0].reason == reasons.QUOTA_PENDING
        assert "exceeded quota" in told.waiting[0].message
        await api.until(lambda: bool(api.created) and told.waiting[-1] is None)


async def test_an_invalid_job_is_told_with_the_manifests_path() -> None:
    api = FakeApi()
    cause = ("spec.template.spec.containers[0].resources.limits[cpu]", 'Invalid value: "-1"')
    api.refuse = [ApiError(422, "Invalid", "Job is invalid", causes=(cause,))]
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(told.waiting))
        assert told.waiting[0] is not None
        assert told.waiting[0].reason == reasons.SPEC_INVALID
        assert "spec.trials.template.resources.limits[cpu]" in told.waiting[0].message


async def test_unschedulable_is_told_and_taken_back() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created))
        message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        api.pods = [pod("digits-t3-1", conditions=[condition])]
        await api.until(lambda: bool(told.waiting) and told.waiting[-1].reason == reasons.UNSCHEDULABLE)
        assert told.waiting[-1] is not None
        assert "1 of 1 workers wait" in told.waiting[-1].message
        assert "nvidia.com/gpu" in told.waiting[-1].message
        api.set_status("digits-t3-1", ready=1)
        await api.until(lambda: told.waiting[-1] is None)


async def test_a_job_without_a_pod_waits_for_a_quota() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(told.waiting) and told.waiting[-1] is not None)
        assert told.waiting[-1].reason == reasons.QUOTA_PENDING
        assert "kubectl -n lab describe job digits-t3-1" in told.waiting[-1].message


async def test_a_crash_is_told_once_and_the_job_goes_on() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created))
        api.pods = [ended("digits-t3-1", 1, "a"), pod("digits-t3-1", "b", phase="Running")]
        api.set_status("digits-t3-1", failed=1, ready=1)
        await api.until(lambda: bool(told.lost))
        api.set_status("digits-t3-1", failed=2, ready=1)
        api.pods.append(ended("digits-t3-1", 137, "c", reason="OOMKilled"))
        await api.until(lambda: len(told.lost) == 2)
        assert [lost.failure for lost in told.lost] == [FailureClass.INFRASTRUCTURE, FailureClass.OUT_OF_MEMORY]
        assert all(lost.job == "digits-t3-1" for lost in told.lost)
        assert api.deleted == []


async def test_a_refused_worker_is_told_and_its_job_deleted() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created))
        api.pods = [ended("digits-t3-1", names.EXIT_REFUSED)]
        launcher.ensure(0)
        api.end("digits-t3-1", "Failed")
        await api.until(lambda: "digits-t3-1" in api.deleted)
        assert [lost.refused for lost in told.lost] == [True]


async def test_a_pod_on_a_dead_node_is_made_good_by_another_job() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created))
        api.set_status("digits-t3-1", ready=1)
        stuck = pod("digits-t3-1", phase="Running")
        stuck["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}
        api.pods = [stuck]
        api.set_status("digits-t3-1", ready=0, terminating=1)
        await api.until(lambda: "digits-t3-2" in api.created)
        assert [lost.failure for lost in told.lost] == [FailureClass.INFRASTRUCTURE]
        await api.until(lambda: "digits-t3-1" in api.deleted)


async def test_a_job_that_somebody_deletes_is_replaced() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created) and bool(api.watches))
        api.say("DELETED", "digits-t3-1")
        del api.jobs["digits-t3-1"]
        await api.until(lambda: "digits-t3-2" in api.created)
        assert [lost.failure for lost in told.lost] == [FailureClass.PREEMPTED]


async def test_what_vanished_while_the_watch_was_away_is_noticed() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created) and bool(api.watches))
        del api.jobs["digits-t3-1"]
        api.watches[0].put_nowait(ApiError(410, "Expired", "too old resource version"))
        await api.until(lambda: "digits-t3-2" in api.created)
        assert [lost.job for lost in told.lost] == ["digits-t3-1"]


async def test_surplus_jobs_that_never_ran_are_deleted_and_running_ones_kept() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, told):
        launcher.ensure(2)
        await api.until(lambda: len(api.created) == 2)
        api.set_status("digits-t3-1", ready=1)
        launcher.ensure(0)
        await api.until(lambda: api.deleted == ["digits-t3-2"])
        assert launcher.alive() == 1
        assert told.lost == []


async def test_stop_deletes_everything_and_waits_for_the_pods() -> None:
    api = FakeApi()
    existing(api, "digits-t1-1", ready=1)
    async with launched(api) as (launcher, told):
        launcher.ensure(2)
        await api.until(lambda: len(api.created) == 1)
        api.pods = [pod("gone-already", phase="Running")]
        stopping = asyncio.create_task(launcher.stop())
        await api.until(lambda: not api.jobs)
        assert not stopping.done()
        api.pods = []
        await asyncio.wait_for(stopping, 20)
        assert launcher.alive() == 0
        assert told.lost == []


async def test_detach_leaves_the_workers_alone() -> None:
    api = FakeApi()
    async with launched(api) as (launcher, _):
        launcher.ensure(1)
        await api.until(lambda: bool(api.created))
        await launcher.detach()
    assert list(api.jobs) == ["digits-t3-1"]


async def test_check_asks_the_api_server_and_translates_its_words() -> None:
    api = FakeApi()
    launcher = KubernetesLauncher(SETTINGS, api, timing=QUICK)
    assert await launcher.check(experiment_spec()) == []
    assert len(api.dry) == 1
    assert not api.jobs
    api.refuse = [ApiError(400, "BadRequest", 'unknown field "spec.template.spec.tolerations[0].wrong"')]
    faults = await launcher.check(experiment_spec(trials={"template": {"tolerations": [{"wrong": 1}]}}))
    assert len(faults) == 1
    assert "spec.trials.template.tolerations[0].wrong" in str(faults[0])


def test_the_bucket_bounds_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3, now=0.0)
    assert bucket.take(10, 0.0) == 3
    assert bucket.take(10, 0.4) == 0
    assert bucket.take(10, 1.0) == 2
    assert bucket.take(10, 100.0) == 3
