"""The line between the supervisor and a trial child: a JSON object a line over a socket pair. Bounded, not trusted."""

from __future__ import annotations

import json
import socket
import threading

from archsearch.spec.base import JsonObject

LINE_LIMIT = 16 * 1024 * 1024


def encode(message: JsonObject) -> bytes:
    """One line.

    Raises:
        ValueError: a NaN or infinite number, or an object that is no JSON.
    """
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class ChildChannel:
    """The child's end: blocking sends, orders polled without waiting."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""
        self._sending = threading.Lock()

    def send(self, message: JsonObject) -> None:
        data = encode(message)
        with self._sending:
            self._socket.sendall(data)

    def poll(self) -> list[str]:
        while True:
            try:
                data = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                break
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        return [str(json.loads(line).get("order", "")) for line in lines]

    def receive(self) -> JsonObject | None:
        """The next message, waited for; None: the supervisor closed the line. An earlier trial's orders are skipped."""
        while True:
            while b"\n" not in self._buffer:
                data = self._socket.recv(65536)
                if not data:
                    return None
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\n")
            message: JsonObject = json.loads(line)
            if "order" not in message:
                return message
