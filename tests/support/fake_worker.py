"""A worker without processes or torch: speaks the lease protocol over HTTP, and answers trials from a function.

Run as a program it is a whole driver with such workers, to be killed at any moment:
    python -m tests.support.fake_worker FOLDER PARALLEL MAX_TRIALS SEED STRATEGY
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

import archsearch
from archsearch.protocol import Assignment, FailureClass, Outcome, TrialKind, TrialState
from archsearch.space import Categorical, Ordinal, SearchSpace
from archsearch.spec.experiment import ExperimentSpec, NASExperiment
from archsearch.store import open_store
from archsearch_strategies.driver import Driver, Summary
from archsearch_strategies.launch.base import LaunchContext, WorkerLost

SPACE = SearchSpace(
    [Categorical(f"op{i}", ("conv", "pool", "skip", "none")) for i in range(4)] + [Ordinal("width", (1, 2, 4))]
)

Evaluate = Callable[[Assignment], Awaitable[Outcome]]


def fitness(assignment: Assignment) -> float:
    """A smooth function of the architecture with a little noise from the seed: the same for the same trial."""
    architecture = assignment.architecture or {}
    good = sum(value == "conv" for value in architecture.values()) + architecture.get("width", 0) / 4
    noise = int(hashlib.sha256(str(assignment.seed).encode()).hexdigest()[:6], 16) / 0xFFFFFF
    return good / 5 + noise / 100


async def evaluate(assignment: Assignment) -> Outcome:
    """Any trial, at once."""
    if assignment.kind is TrialKind.DESCRIBE:
        payload = {"space": SPACE.to_json(), "digest": SPACE.digest, "metrics": ["accuracy", "loss"]}
        return Outcome(state=TrialState.SUCCEEDED, payload=payload)
    if assignment.kind is TrialKind.EXPORT:
        return Outcome(state=TrialState.SUCCEEDED, artifacts={"model": str(assignment.params["target"])})
    return Outcome(
        state=TrialState.SUCCEEDED,
        metrics={"accuracy": fitness(assignment)},
        artifacts={"checkpoint": f"{assignment.folder}/weights"},
    )


class Client:
    """The bare protocol, one worker's."""

    def __init__(self, url: str, token: str, name: str = "fake") -> None:
        self.url, self.token, self.name = url, token, name
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"})
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def post(self, path: str, message: Any) -> tuple[int, Any]:
        """Status and JSON of the answer. A str is sent as it is."""
        assert self._session is not None
        data = message if isinstance(message, str | bytes) else json.dumps(message)
        async with self._session.post(f"{self.url}/v1/{path}", data=data) as reply:
            return reply.status, await reply.json()

    def asking(self, wait: float = 0.0) -> dict[str, Any]:
        return {"version": archsearch.__version__, "worker": self.name, "job": self.name, "waitSeconds": wait}

    async def lease(self, wait: float = 0.0) -> Any:
        status, reply = await self.post("lease", self.asking(wait))
        assert status == 200, reply
        return reply

    async def report(self, grant: Any, **more: Any) -> tuple[int, Any]:
        return await self.post("report", {"lease": grant["lease"], "fence": grant["fence"], **more})

    async def result(self, grant: Any, outcome: Outcome, follow: Any = None, **more: Any) -> tuple[int, Any]:
        message = {"lease": grant["lease"], "fence": grant["fence"], "outcome": outcome.to_json(), **more}
        return await self.post("result", message | ({"next": follow} if follow else {}))


class FakeLauncher:
    """Workers as tasks of this process. `started` counts them; `crash` has the next ones end before they ask."""

    ephemeral = True

    def __init__(self, evaluate: Evaluate = evaluate, *, crash: int = 0) -> None:
        self.evaluate = evaluate
        self.started = 0
        self.granted: list[Assignment] = []
        self.crash = crash
        self.spec: ExperimentSpec | None = None
        self.context: LaunchContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, context: LaunchContext) -> None:
        self.context = context

    def ensure(self, workers: int) -> None:
        for _ in range(workers - len(self._tasks)):
            self.started += 1
            task = asyncio.get_running_loop().create_task(self._work(f"fake-{self.started}"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def update(self, spec: ExperimentSpec) -> None:
        self.spec = spec

    def alive(self) -> int:
        return len(self._tasks)

    async def stop(self, *, grace_seconds: float = 10.0) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, name: str) -> None:
        assert self.context is not None
        if self.crash:
            self.crash -= 1
            self.context.on_lost(WorkerLost(name, FailureClass.INFRASTRUCTURE, f"{name} crashed"))
            return
        async with Client(self.context.lease_url, self.context.token, name) as client:
            reply = await client.lease(5.0)
            while reply["state"] != "done":
                if reply["state"] == "wait":
                    reply = await client.lease(5.0)
                    continue
                reply = await self._trial(client, reply["grant"])

    async def _trial(self, client: Client, grant: Any) -> Any:
        assignment = Assignment.model_validate(grant["assignment"])
        self.granted.append(assignment)
        outcome = await self.evaluate(assignment)
        status, reply = await client.result(grant, outcome, client.asking(5.0))
        return reply.get("next", {"state": "done"}) if status == 200 else {"state": "done"}


def experiment(strategy: str = "random", config: dict[str, Any] | None = None, **spec: Any) -> NASExperiment:
    """A small experiment on the fake space."""
    document = {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": {"zoo": {"name": "nasbench201"}},
        "strategy": {"name": strategy, "config": config or {}},
        "evaluator": {"name": "classification", "config": {"dataset": "digits"}},
        "budget": {"maxTrials": 12},
        **spec,
    }
    return NASExperiment.model_validate({"metadata": {"name": "fake"}, "spec": document})


async def run(folder: Path, wanted: NASExperiment, launcher: FakeLauncher | None = None, **options: Any) -> Summary:
    """A whole run with fake workers."""
    driver = Driver(wanted, open_store(str(folder)), launcher or FakeLauncher(), **options)
    return await driver.run()


def main() -> None:
    folder, parallel, trials, seed, strategy = sys.argv[1:6]
    config = {"population": 8, "sample": 3} if strategy == "regularized-evolution" else {}
    wanted = experiment(
        strategy, config, budget={"maxTrials": int(trials)}, parallelTrials=int(parallel), seed=int(seed)
    )

    async def slow(assignment: Assignment) -> Outcome:
        print("trial", flush=True)
        await asyncio.sleep(0.02)
        return await evaluate(assignment)

    summary = asyncio.run(run(Path(folder), wanted, FakeLauncher(slow)))
    print(summary.model_dump_json(by_alias=True), flush=True)


if __name__ == "__main__":
    main()
