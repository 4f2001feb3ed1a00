"""Asking a registry for an image: against a small registry that wants a token, as public ones do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from archsearch_cli.images import ImageName, in_registry


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"token": "anonymous"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        if "private" in self.path:
            self.send_response(403)
        elif self.headers.get("Authorization") != "Bearer anonymous":
            self.send_response(401)
            host = self.headers["Host"]
            self.send_header("WWW-Authenticate", f'Bearer realm="http://{host}/token",service="test",scope="pull"')
        else:
            self.send_response(200 if self.path == "/v2/team/trial/manifests/1.0" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("trial", "docker.io/library/trial:latest"),
        ("team/trial:1.0", "docker.io/team/trial:1.0"),
        ("localhost/trial", "localhost/trial:latest"),
        ("ghcr.io/a/b/c:2", "ghcr.io/a/b/c:2"),
        ("host:5000/trial", "host:5000/trial:latest"),
        ("ghcr.io/a/b@sha256:ab", "ghcr.io/a/b@sha256:ab"),
    ],
)
def test_names_are_filled_in(name: str, full: str) -> None:
    assert ImageName.parse(name).full() == full
    assert ImageName.parse(full).full() == full


@pytest.mark.parametrize(
    ("image", "there", "told"),
    [
        ("team/trial:1.0", True, ""),
        ("team/trial:2.0", False, "has no team/trial:2.0"),
        ("team/private:1.0", None, "answers 403"),
    ],
)
def test_a_registry_is_asked(registry: str, image: str, there: bool | None, told: str) -> None:
    found, why = in_registry(ImageName.parse(f"{registry}/{image}"))
    assert found is there
    assert told in why


def test_one_that_does_not_answer_is_not_known() -> None:
    found, why = in_registry(ImageName.parse("127.0.0.1:9/trial"))
    assert found is None
    assert "does not answer" in why
