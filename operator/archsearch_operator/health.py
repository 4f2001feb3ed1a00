"""/healthz, /readyz and /metrics on a small server of its own thread, and what health is made from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

STALLED_SECONDS = 60.0  # the event loop made no step for so long
SILENT_SECONDS = 120.0  # a watch brought nothing for so long …
DISAGREEMENTS = 3  # … and so many LISTs in a row showed what it should have brought


class Health:
    """Alive and ready, from what the loop tells. Written by the loop, read by the server's threads.

    A quiet watch is healthy. A watch that is quiet while LISTs show changes is dead, and only a restart helps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self._last_event: dict[str, float] = {}
        self._missed: dict[str, int] = {}
        self._synced = False
        self._leading = False

    def beat(self) -> None:
        """The event loop runs."""
        self._beat = self._clock()

    def watch_event(self, resource: str) -> None:
        self._last_event[resource] = self._clock()
        self._missed[resource] = 0

    def relisted(self, resource: str, corrections: int) -> None:
        """A LIST was compared with what the watch brought."""
        self._synced = True
        if corrections and self._clock() - self._last_event.setdefault(resource, self._clock()) > SILENT_SECONDS:
            self._missed[resource] = self._missed.get(resource, 0) + 1
        elif not corrections:
            self._missed[resource] = 0

    def leading(self, value: bool) -> None:
        self._leading = value

    def problem(self) -> str:
        """Why a restart is needed; empty: alive."""
        stalled = self._clock() - self._beat
        if stalled > STALLED_SECONDS:
            return f"the event loop has made no step for {stalled:.0f} s"
        for resource, missed in list(self._missed.items()):
            if missed >= DISAGREEMENTS:
                silent = self._clock() - self._last_event[resource]
                return f"the watch of {resource} was silent for {silent:.0f} s while {missed} LISTs showed changes"
        return ""

    def unready(self) -> str:
        """Why experiments are not served yet; empty: ready."""
        if not self._leading:
            return "another operator holds the Lease"
        return "" if self._synced else "the first LIST is not done"


class HealthServer:
    """Serves `health` and `registry` until closed. Port 0 takes a free one; see `port`."""

    def __init__(self, port: int, health: Health, registry: CollectorRegistry) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, encode(registry), content_type)
                elif path in ("/healthz", "/readyz"):
                    problem = health.problem() if path == "/healthz" else health.unready()
                    self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode())
                else:
                    self._answer(404, b"there are /healthz, /readyz and /metrics\n")

            def _answer(self, code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes are not worth a line each."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
