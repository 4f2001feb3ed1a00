"""A driver that only speaks the lease protocol: it hands out what a test offers and keeps all that workers say.

It serves from a thread of its own, so that plain tests can wait for it; `stop` and `start` make it go and come back.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from archsearch.protocol import (
    Assignment,
    Fence,
    Grant,
    LeaseReply,
    LeaseRequest,
    ReportReply,
    ReportRequest,
    ResultReply,
    ResultRequest,
)

PATIENCE_SECONDS = 120.0


class FakeDriver:
    def __init__(self) -> None:
        self.token = "a-token-of-enough-length"
        self.port = 0
        self.lease_seconds = 30.0
        self.report_seconds = 0.2
        self.idle_seconds = 600.0
        self.action = "continue"  # what the next reports are told
        self.done = False
        self.refuse_version = False
        self.lost: set[str] = set()  # leases that are answered with 409
        self.requests: list[LeaseRequest] = []
        self.results: queue.Queue[ResultRequest] = queue.Queue()
        self.reports: queue.Queue[ReportRequest] = queue.Queue()
        self.granted: queue.Queue[Grant] = queue.Queue()
        self._offers: list[Assignment] = []
        self._counter = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._call(self._start())

    def stop(self) -> None:
        """Stop answering; connections break."""
        self._call(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def offer(self, assignment: Assignment) -> None:
        self._offers.append(assignment)

    def result(self) -> ResultRequest:
        """The next result that a worker handed in, waited for."""
        return self.results.get(timeout=PATIENCE_SECONDS)

    def run(self, assignment: Assignment) -> ResultRequest:
        """Offer a trial and wait for its result."""
        self.offer(assignment)
        return self.result()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_SECONDS)

    async def _start(self) -> None:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post("/v1/lease", self._lease)
        app.router.add_post("/v1/report", self._report)
        app.router.add_post("/v1/result", self._result)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _error(401, "Unauthorized", "not this experiment's token")
        if self.refuse_version:
            return _error(426, "VersionRefused", "this driver speaks another version")
        return None

    async def _next(self, request: LeaseRequest) -> LeaseReply:
        self.requests.append(request)
        end = self._loop.time() + request.wait_seconds
        while True:
            if self.done:
                return LeaseReply(state="done")
            if self._offers:
                self._counter += 1
                grant = Grant(
                    lease=f"a-secret-of-a-lease-{self._counter}",
                    fence=Fence(epoch=1, counter=self._counter),
                    lease_seconds=self.lease_seconds,
                    report_seconds=self.report_seconds,
                    assignment=self._offers.pop(0),
                )
                self.granted.put(grant)
                return LeaseReply(state="granted", grant=grant)
            if self._loop.time() >= end:
                return LeaseReply(state="wait", retry_seconds=0.05, idle_seconds=self.idle_seconds)
            await asyncio.sleep(0.01)

    async def _lease(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        return _reply(await self._next(LeaseRequest.model_validate_json(await request.read())))

    async def _report(self, request: web.Request) -> web.Response:
        message = ReportRequest.model_validate_json(await request.read())
        if refusal := self._refusal(request) or self._lost(message.lease):
            return refusal
        self.reports.put(message)
        return _reply(ReportReply.model_validate({"action": self.action}))

    async def _result(self, request: web.Request) -> web.Response:
        message = ResultRequest.model_validate_json(await request.read())
        if refusal := self._refusal(request) or self._lost(message.lease):
            return refusal
        self.results.put(message)
        follow = await self._next(message.next) if message.next else None
        return _reply(ResultReply(accepted=True, next=follow))

    def _lost(self, lease: str) -> web.Response | None:
        return _error(409, "LeaseLost", "leased again") if lease in self.lost else None


def _reply(model: BaseModel) -> web.Response:
    return web.Response(text=model.model_dump_json(by_alias=True, exclude_none=True), content_type="application/json")


def _error(status: int, reason: str, message: str) -> web.Response:
    return web.json_response({"error": {"reason": reason, "message": message}}, status=status)
