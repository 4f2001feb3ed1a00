"""The lease protocol over HTTP: checks who asks and what, and leaves the rest to the lease book."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from aiohttp import web
from pydantic import ValidationError

import archsearch
from archsearch.errors import ArchsearchError
from archsearch.protocol import (
    BODY_LIMIT_BYTES,
    PROTOCOL_VERSION,
    LeaseReply,
    LeaseRequest,
    ReportRequest,
    ResultReply,
    ResultRequest,
)
from archsearch.spec.base import Model
from archsearch_strategies.lease.book import LeaseBook, LeaseLost
from archsearch_strategies.lease.groups import PATIENCE_SECONDS

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RETRY_SECONDS = 0.2  # after a poll that found nothing


class LeaseServer:
    """Serves the protocol. Until `book` is set workers wait, and reports are answered with 503.

    Args:
        token: the experiment's; compared in constant time.
        host, port: where to listen; port 0 takes a free one.
    """

    def __init__(self, token: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self.refused_version: str | None = None  # of the newest worker that was turned away
        self.done = False  # lease requests are answered with done even where there is no book
        self._token = token.encode()
        self._book: LeaseBook | None = None
        self._ready = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        app.router.add_get("/healthz", self._health)
        app.router.add_post("/v1/lease", self._lease)
        app.router.add_post("/v1/report", self._report)
        app.router.add_post("/v1/result", self._result)
        # A worker that died while it waited must not be granted a trial: its handler is cancelled.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await site.start()
        if self.port == 0:
            self.port = self._runner.addresses[0][1]

    def serve(self, book: LeaseBook) -> None:
        """From now on there is a book to lease from."""
        self._book = book
        self._ready.set()

    def finish(self) -> None:
        """Workers that ask are done."""
        self.done = True
        self._ready.set()
        if self._book is not None:
            self._book.close()

    async def stop(self) -> None:
        self.finish()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/healthz":
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, b"Bearer " + self._token):
                return _error(401, "Unauthorized", "the bearer token is not this experiment's")
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "BodyTooLarge", f"a body may have at most {BODY_LIMIT_BYTES} bytes")
        except web.HTTPException as error:
            return _error(error.status, "NotFound" if error.status == 404 else "BadRequest", error.reason)
        except (ValidationError, ValueError) as error:
            return _error(422, "NotThisProtocol", _first_problem(error))
        except VersionRefused as error:
            return _error(426, "VersionRefused", str(error))
        except LeaseLost as error:
            return _error(409, "LeaseLost", str(error))
        except _Starting as error:
            return _error(503, "Starting", str(error))
        except ArchsearchError as error:
            logger.warning("%s cannot be answered: %s", request.path, error)
            return _error(503, "Unavailable", "the driver cannot write its ledger now")

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"ready": self._ready.is_set()})

    async def _lease(self, request: web.Request) -> web.Response:
        document = await _json(request)
        self._check_version(document)
        return _reply(await self._next(LeaseRequest.model_validate(document)))

    async def _report(self, request: web.Request) -> web.Response:
        return _reply(self._current().report(ReportRequest.model_validate(await _json(request))))

    async def _result(self, request: web.Request) -> web.Response:
        message = ResultRequest.model_validate(await _json(request))
        accepted = await self._current().result(message)
        follow = None if message.next is None else await self._next(message.next)
        return _reply(ResultReply(accepted=accepted, next=follow))

    async def _next(self, request: LeaseRequest) -> LeaseReply:
        """Grant, or wait for at most as long as the worker asked."""
        loop = asyncio.get_running_loop()
        end = loop.time() + request.wait_seconds
        while True:
            if self.done or (self._book is not None and self._book.over):
                return LeaseReply(state="done")
            if self._book is not None and self._book.dismisses(request):
                return LeaseReply(state="done")  # let go of the resources
            if self._book is not None and (grant := self._book.grant(request)) is not None:
                return LeaseReply(state="granted", grant=grant)
            left = end - loop.time()
            if left <= 0:
                more = {"idle_seconds": PATIENCE_SECONDS} if request.ranks > 1 else {}
                return LeaseReply(state="wait", retry_seconds=_RETRY_SECONDS, **more)
            if self._book is not None:
                await self._book.turn(left)
                continue
            try:
                await asyncio.wait_for(self._ready.wait(), left)
            except TimeoutError:
                continue

    def _current(self) -> LeaseBook:
        if self._book is None:
            raise _Starting("the driver is starting")
        return self._book

    def _check_version(self, document: Any) -> None:
        protocol = document.get("protocol", PROTOCOL_VERSION) if isinstance(document, dict) else PROTOCOL_VERSION
        version = document.get("version", "") if isinstance(document, dict) else ""
        if protocol == PROTOCOL_VERSION and version == archsearch.__version__:
            return
        self.refused_version = str(version)[:100]
        message = (
            f"this worker has archsearch {version!s:.100} and protocol {protocol!s:.20}, "
            f"the driver {archsearch.__version__} and protocol {PROTOCOL_VERSION}: "
            "give trials.image the driver's version"
        )
        raise VersionRefused(message)


class _Starting(ArchsearchError):
    """Not an error: the ledger is not open yet."""


class VersionRefused(ArchsearchError):
    """A worker of another version asked."""


async def _json(request: web.Request) -> Any:
    """The body, without NaN and infinities, which are no JSON. Raises ValueError."""
    return json.loads(await request.read(), parse_constant=_no_number, parse_float=_finite)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _reply(message: Model) -> web.Response:
    return web.Response(
        body=message.model_dump_json(by_alias=True, exclude_none=True).encode(), content_type="application/json"
    )


def _error(status: int, reason: str, message: str) -> web.Response:
    return web.json_response({"error": {"reason": reason, "message": message}}, status=status)


def _first_problem(error: ValidationError | ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
