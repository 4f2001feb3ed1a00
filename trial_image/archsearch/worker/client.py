"""The worker's side of the lease protocol: one connection, kept open; every answer is a model or one of four errors."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import aiohttp
from pydantic import ValidationError

from archsearch.errors import ArchsearchError
from archsearch.protocol import (
    BODY_LIMIT_BYTES,
    LeaseReply,
    LeaseRequest,
    ReportReply,
    ReportRequest,
    ResultReply,
    ResultRequest,
)
from archsearch.spec.base import Model

REQUEST_SECONDS = 30.0
REPLY_LIMIT_BYTES = 64 * 1024 * 1024
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_Reply = TypeVar("_Reply", bound=Model)


class Unreachable(ArchsearchError):
    """The driver does not answer now; the same request may succeed later."""


class LeaseLost(ArchsearchError):
    """The trial is not ours any more."""


class Refused(ArchsearchError):
    """This worker can never serve here: another version, or a wrong token."""


class Rejected(ArchsearchError):
    """The driver cannot use this message (too large, or not of the protocol): sending it again is no use."""


class LeaseClient:
    """Needs a running event loop. `token` goes into a header and nowhere else."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._session = aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=4, ttl_dns_cache=10)
        )

    async def close(self) -> None:
        await self._session.close()

    async def lease(self, request: LeaseRequest) -> LeaseReply:
        return await self._post("lease", request, LeaseReply, request.wait_seconds)

    async def report(self, request: ReportRequest) -> ReportReply:
        return await self._post("report", request, ReportReply)

    async def result(self, request: ResultRequest) -> ResultReply:
        return await self._post("result", request, ResultReply, request.next.wait_seconds if request.next else 0.0)

    async def _post(self, path: str, request: Model, reply: type[_Reply], wait_seconds: float = 0.0) -> _Reply:
        try:
            body = json.dumps(request.to_json(), separators=(",", ":"), allow_nan=False).encode()
        except ValueError as error:
            raise Rejected(f"{path}: the message holds a number that is no JSON: {error}") from error
        if len(body) > BODY_LIMIT_BYTES:
            raise Rejected(
                f"{path}: the message has {len(body)} bytes, more than the {BODY_LIMIT_BYTES} that the driver takes"
            )
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS + wait_seconds)
        url = f"{self._url}/v1/{path}"
        try:
            async with self._session.post(url, data=body, timeout=timeout) as response:
                data = (
                    await response.content.read(REPLY_LIMIT_BYTES) if response.status >= 400 else await response.read()
                )
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"the driver at {self._url} does not answer: {type(error).__name__} {error}") from error
        if status == 200:
            try:
                return reply.model_validate_json(data)
            except ValidationError as error:
                raise Rejected(
                    f"{url}: the answer is no {reply.__name__}: {error.errors(include_url=False)[:3]}"
                ) from error
        raise _fault(status, url, _message(data))


def _fault(status: int, url: str, message: str) -> ArchsearchError:
    if status == 401:
        return Refused(f"{url}: the driver refuses this worker's token: {message}")
    if status == 426:
        return Refused(f"{url}: the driver refuses this worker's version: {message}")
    if status == 409:
        return LeaseLost(message)
    if status in _TRY_AGAIN:
        return Unreachable(f"{url}: the driver answers {status}: {message}")
    return Rejected(f"{url}: the driver answers {status}: {message}")


def _message(data: bytes) -> str:
    try:
        found: Any = json.loads(data)
        return str(found["error"]["message"])[:2000]
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace")
