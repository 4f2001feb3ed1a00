"""The one way to the API server: plain JSON, the official client's connections and credentials, a rate limit."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

from archsearch.errors import ArchsearchError, UserError
from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch_operator.queue import RateLimiter

FIELD_MANAGER = "archsearch-operator"
_PLURALS = {
    "NASExperiment": (f"/apis/{names.API_VERSION}", names.PLURAL),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}
_ATTEMPTS = 4
_PAGE = 500


class ApiError(ArchsearchError):
    """The API server refused a request, or did not answer (`code` 0)."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code, self.reason, self.retry_after = code, reason, retry_after

    @property
    def temporary(self) -> bool:
        """True: the same request may succeed later, and nothing is wrong with it."""
        return self.code in (0, 409, 429) or self.code >= 500


def path(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The URL path of an object, or of a collection when `name` is empty."""
    base, plural = _PLURALS[kind]
    parts = [base]
    if namespace:
        parts += ["namespaces", namespace]
    return "/".join(filter(None, (*parts, plural, name, subresource)))


class Transport:
    """Blocking requests over the official client's connection pool: its TLS, proxies and rotating tokens."""

    def __init__(self, connections: int = 16) -> None:
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            try:
                # The client looks at the environment at its import only.
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
            except config.ConfigException as error:
                raise UserError(f"no cluster: neither in a pod nor a usable KUBECONFIG: {error}") from error
        configuration.connection_pool_maxsize = connections
        self._api = client.ApiClient(configuration)

    def __call__(
        self, method: str, url: str, body: bytes | None, content_type: str, timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        if body is not None:
            headers["Content-Type"] = content_type
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        answer = self._api.rest_client.pool_manager.request(
            method, self._api.configuration.host + url, body=body, headers=headers, timeout=timeout, retries=False
        )
        return answer.status, answer.headers, answer.data


Requester = Callable[[str, str, bytes | None, str, float], tuple[int, Mapping[str, str], bytes]]


class KubeClient:
    """Rate-limited requests, made in threads. `count(verb, code)` hears of each answer.

    Every method raises ApiError; a 429 and a busy or vanished server are asked again a few times, as Retry-After says.
    """

    def __init__(
        self,
        transport: Requester,
        limiter: RateLimiter,
        count: Callable[[str, str], None],
        *,
        timeout: float = 30.0,
        threads: int = 16,
        retry_seconds: float = 0.5,
    ) -> None:
        self._transport, self._limiter, self._count = transport, limiter, count
        self._timeout, self._retry_seconds = timeout, retry_seconds
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="api")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        """The object, or None where there is none."""
        try:
            return await self._request("get", "GET", path(kind, namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "") -> list[JsonObject]:
        """All objects that match, page by page."""
        found: list[JsonObject] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(_PAGE)}
        while True:
            page = await self._request("list", "GET", path(kind, namespace), query=query)
            found += page.get("items") or []
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return found

    async def create(self, body: JsonObject) -> JsonObject:
        meta = body["metadata"]
        return await self._request(
            "create", "POST", path(body["kind"], meta["namespace"]), body, query={"fieldManager": FIELD_MANAGER}
        )

    async def apply(self, body: JsonObject, subresource: str = "") -> JsonObject:
        """Server-side apply with our field manager; fields that we own win."""
        meta = body["metadata"]
        return await self._request(
            "apply",
            "PATCH",
            path(body["kind"], meta["namespace"], meta["name"], subresource),
            body,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
        )

    async def patch(self, kind: str, namespace: str, name: str, body: JsonObject) -> JsonObject:
        """A merge patch."""
        return await self._request(
            "patch",
            "PATCH",
            path(kind, namespace, name),
            body,
            content_type="application/merge-patch+json",
            query={"fieldManager": FIELD_MANAGER},
        )

    async def replace(self, body: JsonObject) -> JsonObject:
        """A PUT; refused with 409 when the object changed since it was read."""
        meta = body["metadata"]
        return await self._request("update", "PUT", path(body["kind"], meta["namespace"], meta["name"]), body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str = "") -> None:
        """Delete in the background; gone already (or another object of that name, when `uid` is given) is success."""
        body: JsonObject = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self._request("delete", "DELETE", path(kind, namespace, name), body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def delete_all(self, kind: str, namespace: str, labels: str) -> None:
        """Delete whatever the labels select, in the background."""
        await self._request(
            "deletecollection",
            "DELETE",
            path(kind, namespace),
            {"propagationPolicy": "Background"},
            query={"labelSelector": labels},
        )

    async def _request(
        self,
        verb: str,
        method: str,
        url: str,
        body: JsonObject | None = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> JsonObject:
        data = None if body is None else json.dumps(body).encode()
        target = url + ("?" + urlencode({k: v for k, v in query.items() if v}) if query else "")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._once(verb, method, target, data, content_type)
            except ApiError as error:
                if attempt == _ATTEMPTS or error.code not in (0, 429, 502, 503, 504):
                    raise
                await asyncio.sleep(max(error.retry_after, self._retry_seconds * 2 ** (attempt - 1)))
        raise AssertionError("unreachable")

    async def _once(self, verb: str, method: str, url: str, data: bytes | None, content_type: str) -> JsonObject:
        await self._limiter.wait()
        call = functools.partial(self._transport, method, url, data, content_type, self._timeout)
        try:
            code, headers, answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except Exception as error:
            # urllib3's errors (refused, reset, timed out, TLS) and those of the credential plugins have no common base.
            self._count(verb, "error")
            raise ApiError(0, "Unreachable", f"the API server does not answer: {type(error).__name__}") from error
        self._count(verb, str(code))
        document = _parse(answer)
        if code < 400:
            return document
        message = document.get("message") or answer[:300].decode(errors="replace")
        raise ApiError(code, document.get("reason") or str(code), message, _seconds(headers.get("Retry-After")))


def _parse(answer: bytes) -> JsonObject:
    try:
        document = json.loads(answer or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(text: str | None) -> float:
    return min(float(text), 60.0) if text and text.isdigit() else 0.0
