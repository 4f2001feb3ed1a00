"""Workers of the worker's tests."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.workers import Worker, make_worker

from archsearch.spec import names


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that the test launches itself."""
    made = make_worker(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One running worker for all tests of a module: its start costs seconds."""
    made = make_worker(tmp_path_factory.mktemp("worker"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        made.metrics_port = probe.getsockname()[1]
    made.launch("--metrics-port", str(made.metrics_port))
    try:
        yield made
        assert made.process is not None
        assert made.process.poll() is None, made.stderr()
        made.process.send_signal(signal.SIGTERM)
        assert made.wait() == names.EXIT_TERMINATED
    finally:
        made.close()
