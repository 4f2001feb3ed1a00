"""The API client, over a transport that answers from a list."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from archsearch_operator.client import ApiError, KubeClient, path
from archsearch_operator.queue import RateLimiter

Answer = tuple[int, dict[str, str], Any] | Exception


class Server:
    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, Any, str]] = []
        self.counts: list[tuple[str, str]] = []

    def __call__(
        self, method: str, url: str, body: bytes | None, content_type: str, timeout: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        self.requests.append((method, url, json.loads(body) if body else None, content_type))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer[0], answer[1], json.dumps(answer[2]).encode()

    def client(self) -> KubeClient:
        limiter = RateLimiter(1000.0, 1000)
        return KubeClient(self, limiter, lambda verb, code: self.counts.append((verb, code)), retry_seconds=0.001)


def test_paths() -> None:
    assert path("Job", "n", "x") == "/apis/batch/v1/namespaces/n/jobs/x"
    assert path("NASExperiment", "n", "x", "status").endswith("/namespaces/n/nasexperiments/x/status")
    assert path("Pod") == "/api/v1/pods"


async def test_a_list_goes_on_to_its_last_page() -> None:
    server = Server(
        (200, {}, {"metadata": {"continue": "more"}, "items": [1, 2]}), (200, {}, {"metadata": {}, "items": [3]})
    )
    assert await server.client().list("Job", labels="a=b") == [1, 2, 3]
    assert "labelSelector=a%3Db" in server.requests[0][1]
    assert "continue=more" in server.requests[1][1]
    assert server.counts == [("list", "200")] * 2


async def test_a_busy_and_a_vanished_server_are_asked_again_and_every_answer_is_counted() -> None:
    server = Server((429, {"Retry-After": "0"}, {}), ConnectionResetError("gone"), (200, {}, {"metadata": {}}))
    assert await server.client().get("Job", "n", "x") == {"metadata": {}}
    assert server.counts == [("get", "429"), ("get", "error"), ("get", "200")]


async def test_a_server_that_stays_away_is_a_temporary_error() -> None:
    server = Server(*[TimeoutError()] * 9)
    with pytest.raises(ApiError) as caught:
        await server.client().get("Job", "n", "x")
    assert caught.value.temporary
    assert len(server.requests) == 4


async def test_a_refusal_is_not_repeated_and_carries_the_servers_words() -> None:
    server = Server((422, {}, {"reason": "Invalid", "message": "spec.x: wrong"}))
    with pytest.raises(ApiError, match=r"spec\.x: wrong") as caught:
        await server.client().create({"kind": "Job", "metadata": {"namespace": "n"}})
    assert (caught.value.code, caught.value.reason, caught.value.temporary) == (422, "Invalid", False)


async def test_what_is_not_there_is_none_and_deleting_it_succeeds() -> None:
    server = Server((404, {}, {}), (404, {}, {}))
    client = server.client()
    assert await client.get("Job", "n", "x") is None
    await client.delete("Job", "n", "x", uid="u")
    assert server.requests[1][2] == {"propagationPolicy": "Background", "preconditions": {"uid": "u"}}


async def test_apply_is_server_side_with_our_name() -> None:
    server = Server((200, {}, {}))
    await server.client().apply({"kind": "Role", "metadata": {"namespace": "n", "name": "x"}})
    method, url, _, content_type = server.requests[0]
    assert (method, content_type) == ("PATCH", "application/apply-patch+yaml")
    assert "fieldManager=archsearch-operator" in url
    assert "force=true" in url
