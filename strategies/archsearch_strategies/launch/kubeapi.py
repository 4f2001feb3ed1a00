"""The few requests that a driver makes to the API server: plain JSON over the official client's connections."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

from archsearch.errors import ArchsearchError
from archsearch.spec import names
from archsearch.spec.base import JsonObject

_JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_EXPERIMENTS = f"/apis/{names.API_VERSION}/namespaces/{{namespace}}/{names.PLURAL}"
_AGENT = "archsearch-driver"
_CONNECT_SECONDS = 5.0
_TIMEOUT_SECONDS = 30.0
_WATCH_SECONDS = 240  # the server ends the watch then, and a fresh one begins


class ApiError(ArchsearchError):
    """The API server refused a request, or did not answer (`code` 0). `causes`: (field, message) of a bad object."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        retry_after: float = 0.0,
        causes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.retry_after, self.causes = code, reason, retry_after, causes

    @property
    def temporary(self) -> bool:
        """The same request may succeed later, and nothing is wrong with it."""
        return self.code in {0, 408, 429} or self.code >= 500


class KubeApi:
    """Requests in one namespace. Every call runs in a thread and may be cancelled; what it did then stays done."""

    def __init__(self, namespace: str, *, connections: int = 16) -> None:
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        configuration.connection_pool_maxsize = connections
        self.namespace = namespace
        self._api: Any = client.ApiClient(configuration)

    async def create_job(self, job: JsonObject, *, dry_run: bool = False) -> JsonObject:
        """Create a Job; with `dry_run` only ask, and strictly: unknown fields are refused."""
        query = {"fieldValidation": "Strict", "dryRun": "All"} if dry_run else {"fieldValidation": "Ignore"}
        return await self._json("POST", self._path(_JOBS), job, query)

    async def get_job(self, name: str) -> JsonObject:
        return await self._json("GET", self._path(_JOBS, name))

    async def list_jobs(self, selector: str) -> JsonObject:
        """A JobList; its metadata has the resource version that a watch goes on from."""
        return await self._json("GET", self._path(_JOBS), None, {"labelSelector": selector})

    async def delete_job(self, name: str) -> None:
        """Delete a Job, its pods after it. One that is not there is deleted."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            await self._json("DELETE", self._path(_JOBS, name), body)
        except ApiError as error:
            if error.code != 404:
                raise

    async def list_pods(self, selector: str) -> list[JsonObject]:
        answer = await self._json("GET", self._path(_PODS), None, {"labelSelector": selector})
        return list(answer["items"])

    async def get_experiment(self, name: str) -> JsonObject:
        return await self._json("GET", self._path(_EXPERIMENTS, name))

    async def patch_status(self, name: str, status: JsonObject) -> None:
        """Merge `status` into the experiment's."""
        await self._json(
            "PATCH",
            self._path(_EXPERIMENTS, name) + "/status",
            {"status": status},
            content="application/merge-patch+json",
        )

    def watch_jobs(self, selector: str, version: str) -> AsyncIterator[JsonObject]:
        """Events of Jobs, from a list's resource version on. Ends when the server ends it; ApiError 410: list again."""
        return self._watch(self._path(_JOBS), {"labelSelector": selector, "resourceVersion": version})

    def watch_experiment(self, name: str, version: str) -> AsyncIterator[JsonObject]:
        return self._watch(
            self._path(_EXPERIMENTS), {"fieldSelector": f"metadata.name={name}", "resourceVersion": version}
        )

    def close(self) -> None:
        self._api.rest_client.pool_manager.clear()

    def _path(self, template: str, name: str = "") -> str:
        path = template.format(namespace=self.namespace)
        return f"{path}/{name}" if name else path

    async def _json(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> JsonObject:
        return await _in_thread(lambda: self._request(method, path, body, query, content))

    def _request(
        self, method: str, path: str, body: JsonObject | None, query: dict[str, str] | None, content: str
    ) -> JsonObject:
        response = self._open(method, path, body, query, content, _TIMEOUT_SECONDS, stream=False)
        document = json.loads(response.data or b"{}")
        if not isinstance(document, dict):
            raise ApiError(0, "BadAnswer", f"the API server's answer to {method} {path} is no JSON object")
        return document

    def _open(
        self,
        method: str,
        path: str,
        body: JsonObject | None,
        query: dict[str, str] | None,
        content: str,
        read_seconds: float,
        *,
        stream: bool,
    ) -> Any:
        import urllib3

        headers = {"Accept": "application/json", "User-Agent": _AGENT}
        if body is not None:
            headers["Content-Type"] = content
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._api.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_seconds),
                retries=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", f"the API server does not answer: {error}") from error
        if not 200 <= response.status < 300:
            raise _refusal(response.status, response.headers, response.read() if stream else response.data)
        return response

    async def _watch(self, path: str, query: dict[str, str]) -> AsyncIterator[JsonObject]:
        stream = _Stream(
            lambda: self._open(
                "GET",
                path,
                None,
                {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS)},
                "",
                _WATCH_SECONDS + 30.0,
                stream=True,
            )
        )
        try:
            async for event in stream.events():
                if event.get("type") == "ERROR":
                    raise _error_of(event.get("object") or {})
                yield event
        finally:
            stream.close()


class _Stream:
    """Lines of a response, read in a daemon thread: one that hangs in a dead connection holds nobody's exit up."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[JsonObject | ApiError | None] = asyncio.Queue()
        self._response: Any = None
        self._closed = False

    async def events(self) -> AsyncIterator[JsonObject]:
        threading.Thread(target=self._read, name="watch", daemon=True).start()
        while (item := await self._queue.get()) is not None:
            if isinstance(item, ApiError):
                raise item
            yield item

    def close(self) -> None:
        self._closed = True
        if self._response is not None:
            self._response.shutdown()

    def _read(self) -> None:
        last: ApiError | None = None
        try:
            self._response = self._connect()
            buffer = b""
            while not self._closed and (chunk := self._response.read1(65536)):
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    self._put(json.loads(line))
        except ApiError as error:
            last = error
        except Exception as error:  # a broken connection has many names, and each means: watch again
            last = ApiError(0, "Unreachable", f"the watch broke off: {error}")
        finally:
            if self._response is not None:
                self._response.close()
            self._put(last)

    def _put(self, item: JsonObject | ApiError | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


async def _in_thread(call: Callable[[], JsonObject]) -> JsonObject:
    """Like asyncio.to_thread, in a daemon thread: the process may exit while the API server is silent."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[JsonObject] = loop.create_future()

    def settle(result: JsonObject | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or {})

    def work() -> None:
        result: JsonObject | None = None
        failure: BaseException | None = None
        try:
            result = call()
        except Exception as error:  # handed to whoever waits
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="api", daemon=True).start()
    return await future


def _refusal(status: int, headers: Any, body: bytes) -> ApiError:
    try:
        document = json.loads(body)
    except ValueError:
        document = {}
    error = _error_of(document if isinstance(document, dict) else {}, status, body.decode(errors="replace")[:500])
    try:
        error.retry_after = max(0.0, float(headers.get("Retry-After", 0)))
    except ValueError:
        error.retry_after = 1.0
    return error


def _error_of(status: JsonObject, code: int = 0, text: str = "") -> ApiError:
    causes = ((status.get("details") or {}).get("causes")) or []
    return ApiError(
        int(status.get("code") or code),
        str(status.get("reason") or ""),
        str(status.get("message") or text or f"HTTP status {code}"),
        causes=tuple((str(cause.get("field", "")), str(cause.get("message", ""))) for cause in causes),
    )
