"""What is special in a bucket: refusals, lost replies, silence."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.seaweedfs import S3Server

from archsearch.errors import StoreError, StoreUnavailable
from archsearch.store import Credentials, KeyMissing, open_store, s3

KEYS = Credentials("AKIAEXAMPLE", "topsecret")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_FIRST_PAUSE_SECONDS", 0.001)


class Scripted(ThreadingHTTPServer):
    """Answers requests from a list of (status, body, headers), the last again and again; keeps what was asked."""

    def __init__(self, *answers: tuple[int, bytes, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        answers = self.server.answers
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:  # no answer at all
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = _answer  # noqa: N815 - names of http.server

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def scripted(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    server = Scripted((500, b"", {}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def error(status: int, code: str) -> tuple[int, bytes, dict[str, str]]:
    return (
        status,
        f"<Error><Code>{code}</Code><Message>words</Message></Error>".encode(),
        {"Content-Type": "application/xml"},
    )


def test_refusals_of_a_real_server_name_the_remedy(s3_server: S3Server) -> None:
    wrong = open_store(
        s3_server.uri("x"), endpoint=s3_server.endpoint, credentials=Credentials(s3_server.access_key, "topsecret")
    )
    unknown = open_store(s3_server.uri("x"), endpoint=s3_server.endpoint, credentials=KEYS)
    missing = open_store("s3://no-such-bucket/x", endpoint=s3_server.endpoint, credentials=s3_server.credentials)
    for store, text in (
        (wrong, "secret key is wrong; correct AWS_SECRET_ACCESS_KEY"),
        (unknown, "access key is unknown; correct AWS_ACCESS_KEY_ID"),
        (missing, "bucket does not exist; create it or correct the storage URI"),
    ):
        for use in (store.check, lambda store=store: store.put("k", b"x"), lambda store=store: store.create("k", b"x")):
            with pytest.raises(StoreError, match=text) as caught:
                use()
            assert not isinstance(caught.value, StoreUnavailable | KeyMissing)
            assert "topsecret" not in str(caught.value)
            assert s3_server.endpoint in str(caught.value)


def test_nobody_at_the_endpoint() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        store = open_store("s3://bucket/x", endpoint=endpoint, credentials=KEYS)
        with pytest.raises(StoreUnavailable, match=f"{endpoint}.*check that the endpoint is right"):
            store.check()
        with pytest.raises(StoreUnavailable):
            store.get("k")


def test_no_keys_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    with pytest.raises(StoreError, match="no keys found; give AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x", endpoint="http://127.0.0.1:9").check()


def test_a_request_is_repeated_while_the_service_is_busy(scripted: Scripted) -> None:
    scripted.answers = [error(503, "SlowDown"), error(500, "InternalError"), (0, b"", {}), (200, b"content", {})]
    assert open_store("s3://bucket/x", endpoint=scripted.url, credentials=KEYS).get("k") == b"content"
    assert [path for _, path, _ in scripted.asked] == ["/bucket/x/k"] * 4


def test_a_request_is_repeated_only_so_often(scripted: Scripted) -> None:
    scripted.answers = [error(503, "ServiceUnavailable")]
    with pytest.raises(StoreUnavailable, match="503 ServiceUnavailable"):
        open_store("s3://bucket/x", endpoint=scripted.url, credentials=KEYS).get("k")
    assert len(scripted.asked) == 5


def test_a_cut_body_is_fetched_again(scripted: Scripted) -> None:
    scripted.answers = [(200, b"cont", {"Content-Length": "7"}), (200, b"content", {})]
    scripted.answers[0][2]["Connection"] = "close"
    assert open_store("s3://bucket/x", endpoint=scripted.url, credentials=KEYS).get("k") == b"content"


def test_a_refused_create_is_read_back(scripted: Scripted) -> None:
    store = open_store("s3://bucket/x", endpoint=scripted.url, credentials=KEYS)
    # A conflict is tried again; then the object exists, since the first try was written after all.
    scripted.answers = [error(409, "ConditionalRequestConflict"), error(412, "PreconditionFailed"), (200, b"mine", {})]
    assert store.create("k", b"mine")
    assert [method for method, _, _ in scripted.asked] == ["PUT", "PUT", "GET"]
    headers = scripted.asked[0][2]
    assert headers["If-None-Match"] == "*"
    assert not {"Expect", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"} & set(headers)
    scripted.answers = [error(412, "PreconditionFailed"), (200, b"other", {})]
    assert not store.create("k", b"mine")


def test_a_service_without_conditional_writes(scripted: Scripted) -> None:
    scripted.answers = [error(501, "NotImplemented")]
    with pytest.raises(StoreError, match="needs conditional writes") as caught:
        open_store("s3://bucket/x", endpoint=scripted.url, credentials=KEYS).create("k", b"x")
    assert not isinstance(caught.value, StoreUnavailable)
    assert len(scripted.asked) == 1


def test_bucket_in_the_host_name() -> None:
    store = open_store("s3://bucket/x", endpoint="http://store.invalid", credentials=KEYS, path_style=False)
    assert isinstance(store, s3.S3Store)
    client = store._connection.client()
    assert client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}).startswith(
        "http://bucket.store.invalid/k?"
    )


def test_a_server_that_comes_back(s3_server: S3Server) -> None:
    """A client made before keeps working with the server's next process."""
    store = s3_server.store(uuid.uuid4().hex)
    store.put("k", b"x")
    s3_server.stop()
    try:
        with pytest.raises(StoreUnavailable):
            store.get("k")
    finally:
        s3_server.start()
    store.put("k", b"y")
    assert store.get("k") == b"y"
