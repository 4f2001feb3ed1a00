"""The kopf shell: registers, wires, runs. No logic is here: an event handler that raises is never retried."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping
from typing import Any, cast

import kopf

from archsearch.spec import names
from archsearch_operator.client import KubeClient, Requester, Transport
from archsearch_operator.controller import EXPERIMENTS, JOBS, Controller
from archsearch_operator.guard import LeaseGuard
from archsearch_operator.health import Health, HealthServer
from archsearch_operator.metrics import Metrics
from archsearch_operator.observe import labelled
from archsearch_operator.queue import RateLimiter
from archsearch_operator.settings import Settings
from archsearch_operator.store import Store

_log = logging.getLogger(__name__)


def kopf_settings() -> kopf.OperatorSettings:
    """kopf's settings, each with its reason."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # peering is no lock; our Lease is
    settings.scanning.disabled = True  # the CRD is there before the operator, and namespaced rights see no CRDs
    settings.watching.label_selectors[JOBS] = labelled(names.COMPONENT_STRATEGY)  # the server leaves trial Jobs out
    settings.watching.chunk_size = 500  # a LIST of thousands comes in pages
    settings.watching.inactivity_timeout = 70  # a connection that died without a word is noticed
    settings.watching.server_timeout = 300  # each watch is made anew in five minutes, whatever a proxy does
    settings.networking.request_timeout = 30  # no request of kopf's hangs
    settings.queueing.idle_timeout = 1  # an idle object needs no task
    settings.posting.level = logging.WARNING  # kopf's own words are no Events of an experiment
    settings.posting.loggers = False
    return settings


def registry(observe: Any) -> kopf.OperatorRegistry:
    """Handlers that only pass on what was seen."""
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=made)
    def experiment(event: Mapping[str, Any], **_: Any) -> None:
        observe(EXPERIMENTS, event["type"], dict(event["object"]))

    @kopf.on.event("batch", "v1", JOBS, labels={names.LABEL_COMPONENT: names.COMPONENT_STRATEGY}, registry=made)
    def job(event: Mapping[str, Any], **_: Any) -> None:
        observe(JOBS, event["type"], dict(event["object"]))

    return made


class Operator:
    """One operator process: health server, Lease, controller and kopf's watches."""

    def __init__(self, settings: Settings, transport: Requester | None = None) -> None:
        self._settings = settings
        transport = transport or Transport()
        stores = (Store(), Store())
        self.metrics = Metrics(lambda: stores[0])
        self.health = Health()
        self.server = HealthServer(settings.http_port, self.health, self.metrics.registry)
        self._client = KubeClient(
            transport,
            RateLimiter(settings.requests_per_second, settings.request_burst),
            lambda verb, code: self.metrics.api_requests.labels(verb, code).inc(),
            timeout=settings.request_timeout_seconds,
        )
        self._controller = Controller(settings, self._client, self.metrics, self.health, stores)

    async def run(self, stop: threading.Event) -> None:
        """Serve until `stop`, or until the Lease is lost (then raises SystemExit: a restart waits for it anew)."""
        waiting = asyncio.create_task(self._beat_while_waiting())
        guard = None
        try:
            if self._settings.lease_name:
                guard = LeaseGuard(
                    self._client,
                    namespace=self._settings.namespace,
                    name=self._settings.lease_name,
                    identity=self._settings.identity,
                    seconds=self._settings.lease_seconds,
                )
                if not await _unless(stop, guard.acquire()):
                    return
            self._lead(True)
            waiting.cancel()
            await self._serve(stop, guard)
        finally:
            waiting.cancel()
            self._lead(False)
            if guard is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(guard.release(), 5)
            self._client.close()
            self.server.close()

    async def _serve(self, stop: threading.Event, guard: LeaseGuard | None) -> None:
        ended = threading.Event()
        watches = kopf.operator(
            registry=registry(self._controller.observe),
            settings=kopf_settings(),
            clusterwide=not self._settings.watch_namespaces,
            namespaces=self._settings.watch_namespaces,
            standalone=True,
            # kopf would ask for the user's name otherwise, and an arbitrary uid has none.
            identity=cast(Any, self._settings.identity or "operator"),
            stop_flag=ended,
        )
        tasks = {
            asyncio.create_task(watches, name="watches"),
            asyncio.create_task(self._controller.run(), name="controller"),
        }
        if guard is not None:
            tasks.add(asyncio.create_task(guard.hold(), name="lease"))
        stopping = asyncio.create_task(_wait(stop), name="stop")
        done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        ended.set()
        stopping.cancel()
        for task in tasks:
            if task.get_name() != "watches":
                task.cancel()
        await asyncio.wait(tasks, timeout=8)
        for task in done - {stopping}:
            error = None if task.cancelled() else task.exception()
            raise SystemExit(
                f"the operator's {task.get_name()} ended" + (f": {error!r}" if error else "; it starts again")
            )

    async def _beat_while_waiting(self) -> None:
        while True:
            self.health.beat()
            await asyncio.sleep(1)

    def _lead(self, value: bool) -> None:
        self.health.leading(value)
        self.metrics.lease_held.set(int(value))


async def _wait(stop: threading.Event) -> None:
    while not stop.is_set():  # noqa: ASYNC110 - set by a signal handler or another thread, which asyncio's Event does not allow
        await asyncio.sleep(0.1)


async def _unless(stop: threading.Event, work: Any) -> bool:
    """Run `work` unless `stop` comes first; False then."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(_wait(stop))
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False
