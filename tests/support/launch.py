"""An API server in memory, as far as the launcher can tell: Jobs, their pods, a watch."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

from archsearch.spec import names
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.wiring import DriverSettings
from archsearch_strategies.launch.base import LaunchContext, Waiting, WorkerLost
from archsearch_strategies.launch.kubeapi import ApiError

SETTINGS = DriverSettings.model_validate(
    {
        "experiment": "digits",
        "namespace": "lab",
        "uid": "uid-1",
        "storage": {"uri": "s3://bucket", "secretName": "keys", "caConfigMapName": "ca"},
        "trialImage": "archsearch-trial:1",
        "service": "digits-strategy",
        "tokenSecret": "digits-token-uid-1",
    }
)


def experiment_spec(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "objectives": [{"metric": "accuracy"}],
            "modelSpace": {"zoo": {"name": "nasbench201"}},
            "strategy": {"name": "random"},
            "evaluator": {"name": "classification"},
            **changes,
        }
    )


def pod(job: str, uid: str = "pod-1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{job}-{uid}", "uid": uid, "labels": {"batch.kubernetes.io/job-name": job}},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Pending", **status},
    }


def ended(job: str, code: int, uid: str = "pod-1", reason: str = "Error", message: str = "") -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message}
    return pod(job, uid, phase="Failed", containerStatuses=[{"name": "worker", "state": {"terminated": terminated}}])


class FakeApi:
    """Each change wakes whoever waits for `changed`."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.dry: list[dict[str, Any]] = []
        self.refuse: list[ApiError] = []  # the next creations fail with these
        self.lose_reply = False  # the next creation succeeds and says that it did not
        self.watches: list[asyncio.Queue[dict[str, Any] | ApiError]] = []
        self.changed = asyncio.Event()

    async def until(self, met: Any, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not met():
                self.changed.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self.changed.wait()
                except TimeoutError:
                    pass

    def say(self, kind: str, name: str) -> None:
        for queue in self.watches:
            queue.put_nowait({"type": kind, "object": copy.deepcopy(self.jobs[name])})
        self.changed.set()

    def set_status(self, name: str, **status: Any) -> None:
        self.jobs[name]["status"] = status
        self.say("MODIFIED", name)

    def end(self, name: str, kind: str = "Complete") -> None:
        self.set_status(name, conditions=[{"type": kind, "status": "True"}])

    # What the launcher calls.

    async def create_job(self, job: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        if dry_run:
            self.dry.append(job)
            if self.refuse:
                raise self.refuse.pop(0)
            return job
        name = job["metadata"]["name"]
        if self.refuse:
            raise self.refuse.pop(0)
        if name in self.jobs:
            raise ApiError(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        self.jobs[name] = copy.deepcopy(job)
        self.created.append(name)
        self.say("ADDED", name)
        if self.lose_reply:
            self.lose_reply = False
            raise ApiError(0, "Unreachable", "connection reset")
        return job

    async def get_job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise ApiError(404, "NotFound", name)
        return copy.deepcopy(self.jobs[name])

    async def list_jobs(self, selector: str) -> dict[str, Any]:
        assert selector == f"{names.LABEL_EXPERIMENT_UID}=uid-1,{names.LABEL_COMPONENT}=trial"
        return {"metadata": {"resourceVersion": "1"}, "items": copy.deepcopy(list(self.jobs.values()))}

    async def delete_job(self, name: str) -> None:
        self.deleted.append(name)
        if name in self.jobs:
            self.say("DELETED", name)
            del self.jobs[name]
            self.pods = [
                each for each in self.pods if each["metadata"]["labels"]["batch.kubernetes.io/job-name"] != name
            ]

    async def list_pods(self, selector: str) -> list[dict[str, Any]]:
        return copy.deepcopy(self.pods)

    async def watch_jobs(self, selector: str, version: str) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any] | ApiError] = asyncio.Queue()
        self.watches.append(queue)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, ApiError):
                    raise item
                yield item
        finally:
            self.watches.remove(queue)


class Told:
    """What the launcher told the driver."""

    def __init__(self, api: FakeApi, spec: ExperimentSpec | None = None, epoch: int = 3) -> None:
        self.lost: list[WorkerLost] = []
        self.waiting: list[Waiting | None] = []
        self._api = api
        self.context = LaunchContext(
            spec=spec or experiment_spec(),
            epoch=epoch,
            lease_url="http://digits-strategy.lab.svc:8470",
            token="a-token-of-some-length",
            on_lost=self._on_lost,
            on_waiting=self._on_waiting,
        )

    def _on_lost(self, lost: WorkerLost) -> None:
        self.lost.append(lost)
        self._api.changed.set()

    def _on_waiting(self, waiting: Waiting | None) -> None:
        self.waiting.append(waiting)
        self._api.changed.set()
