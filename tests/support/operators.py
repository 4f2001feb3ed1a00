"""An operator in a thread of this process, a namespace that it serves, and waiting for what it does."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archsearch_operator.main import Operator
from archsearch_operator.settings import Settings
from support.apiserver import ApiServer

WAIT_SECONDS = 60.0


class Running:
    """One operator process, as far as a thread can be one."""

    def __init__(self, settings: Settings) -> None:
        self.operator = Operator(settings)
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self.operator.run(self._stop))
        except (Exception, SystemExit) as error:
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the operator did not stop"


class Cluster:
    """A namespace of the server, and operators that serve it alone."""

    def __init__(self, server: ApiServer, secrets: Path) -> None:
        self.server = server
        self.namespace = server.namespace()
        self._secrets = secrets
        self._running: list[Running] = []

    def start(self, **changes: Any) -> Running:
        values: dict[str, Any] = {
            "trial_image": "trial:1",
            "watch_namespaces": (self.namespace,),
            "namespace": self.namespace,
            "identity": f"pod-{uuid.uuid4().hex[:6]}",
            "storage_uri": "s3://shared/prefix",
            "storage_secret_dir": str(self._secrets),
            "network_policy": True,
            "lease_seconds": 2.0,
            "relist_seconds": 2.0,
            "http_port": 0,
        }
        running = Running(Settings(**(values | changes)))
        self._running.append(running)
        return running

    def close(self) -> None:
        for running in self._running:
            running.stop()

    def experiment(self, name: str = "digits", **spec: Any) -> dict[str, Any]:
        body = {
            "apiVersion": "archsearch.dev/v1alpha1",
            "kind": "NASExperiment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "objectives": [{"metric": "accuracy"}],
                "modelSpace": {"zoo": {"name": "nasbench201"}},
                "strategy": {"name": "random"},
                "evaluator": {"name": "classification"},
                "budget": {"maxTrials": 20},
            }
            | spec,
        }
        self.server.apply(body)
        return self.get("nasx", name)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        return self.server.kubectl("-n", self.namespace, *arguments, check=check).stdout

    def get(self, kind: str, name: str) -> Any:
        return self.server.get(kind, name, "-n", self.namespace)

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.server.get(kind, "-n", self.namespace)["items"]}

    def patch(self, kind: str, name: str, body: str, *more: str) -> None:
        self.kubectl("patch", kind, name, "--type=merge", "-p", body, *more)

    def conditions(self, name: str = "digits") -> dict[str, tuple[str, str]]:
        found = self.get("nasx", name).get("status", {}).get("conditions", [])
        return {each["type"]: (each["status"], each["reason"]) for each in found}

    def until(self, what: str, check: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = check()
            if found:
                return found
            for running in self._running:
                assert running.error is None, f"the operator ended: {running.error!r}"
            assert time.monotonic() < deadline, f"not seen in {WAIT_SECONDS:.0f} s: {what}"
            time.sleep(0.2)

    def until_condition(self, kind: str, status: str, reason: str, name: str = "digits") -> None:
        try:
            self.until(f"{kind}={status} {reason}", lambda: self.conditions(name).get(kind) == (status, reason))
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.conditions(name)}") from None
