"""The supervisor's hold on its zygote and the trial child below it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from archsearch.errors import ArchsearchError
from archsearch.spec.base import JsonObject
from archsearch.worker import linux
from archsearch.worker.channel import LINE_LIMIT, encode
from archsearch.worker.zygote import PACKET_LIMIT

STOP_SECONDS = 15.0


class ZygoteFailed(ArchsearchError):
    """The zygote did not start, or it ended by itself."""


@dataclass
class Exit:
    """How a trial child's process ended. `status` None: the zygote was lost, and the child with it."""

    status: int | None
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass
class Child:
    """One forked process: its line, and its end."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    exited: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    pid: int = 0  # known a moment after the fork
    key: str = ""  # what a long-lived child can serve; empty: one trial only

    def send(self, message: JsonObject) -> None:
        """Without waiting; a child that is gone shows as the end of its line."""
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write(encode(message))

    def close(self) -> None:
        self.writer.close()


class Zygote:
    """Starts the zygote's process, asks it for children, and is told of their ends."""

    def __init__(self, environment: Mapping[str, str], directory: Path, runner: str) -> None:
        self._environment = dict(environment)
        self._directory = directory
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._swept: asyncio.Future[int] | None = None
        self._children: dict[int, Child] = {}
        self._counter = 0

    @property
    def alive(self) -> bool:
        return self._control is not None

    def start(self) -> None:
        """Start the process; importing torch takes it seconds, for which `spawn` waits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        with theirs:
            # -P: what lies in the working directory is never imported.
            command = [sys.executable, "-P", "-m", "archsearch.worker.zygote"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), self._runner],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._hear)

    async def spawn(self) -> Child:
        """Fork a child that waits for its first trial.

        Raises:
            ZygoteFailed: the zygote could not import what it needs, or died.
        """
        if self._ready is None:
            raise ZygoteFailed("the zygote was not started")
        await asyncio.shield(self._ready)
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
        self._counter += 1
        child = Child(self._counter, reader, writer)
        self._children[child.number] = child
        with theirs:
            self._ask({"op": "spawn", "number": child.number}, theirs.fileno())
        return child

    def kill(self, child: Child) -> None:
        """SIGKILL; its end and that of all below it shows in `child.exited`."""
        if not child.exited.done():
            with contextlib.suppress(ZygoteFailed):
                self._ask({"op": "kill", "number": child.number})

    def is_alone(self, child: Child) -> bool:
        """Whether the child's trial has left no other process. False where that cannot be told quickly."""
        return self._process is not None and child.pid > 0 and linux.is_alone(self._process.pid, child.pid)

    async def sweep(self) -> int:
        """Kill what a long-lived child left behind, the child itself spared. Returns how many could not be killed."""
        self._swept = asyncio.get_running_loop().create_future()
        self._ask({"op": "sweep"})
        return await self._swept

    async def stop(self) -> None:
        """End the zygote and everything below it."""
        process = self._process
        if process is None:
            return
        self._lose("the worker is ending")
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        await asyncio.to_thread(linux.sweep)
        self._process = None

    def _ask(self, request: JsonObject, *descriptors: int) -> None:
        if self._control is None:
            raise ZygoteFailed("the zygote ended by itself")
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], list(descriptors))
        except OSError as error:
            raise ZygoteFailed(f"the zygote does not answer: {error}") from error

    def _hear(self) -> None:
        while self._control is not None:
            try:
                data = self._control.recv(PACKET_LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._died()
                return
            self._take(json.loads(data))

    def _take(self, event: JsonObject) -> None:
        match event["event"]:
            case "ready" if self._ready is not None:
                if event["threads"] > 1:
                    print(  # noqa: T201
                        f"archsearch: the zygote has {event['threads']} threads after its imports: trials may hang in "
                        "a parallel operation (does a sitecustomize or .pth file of this image start a thread?)",
                        file=sys.stderr,
                        flush=True,
                    )
                self._ready.set_result(None)
            case "failed" if self._ready is not None and not self._ready.done():
                self._ready.set_exception(
                    ZygoteFailed(f"the zygote cannot import what trials need: {event['message']}")
                )
            case "spawned":
                if (spawned := self._children.get(event["number"])) is not None:
                    spawned.pid = event["pid"]
            case "swept" if self._swept is not None and not self._swept.done():
                self._swept.set_result(event["left"])
            case "exited":
                child = self._children.pop(event["number"], None)
                if child is not None and not child.exited.done():
                    child.exited.set_result(Exit(event["status"], event["cpuSeconds"], event["peakMemoryBytes"]))

    def _died(self) -> None:
        """The zygote is gone, which its children do not survive; orphans below them are ours now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        linux.sweep()
        self._lose("the zygote ended by itself")

    def _lose(self, reason: str) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        failure = ZygoteFailed(reason)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(failure)
        if self._swept is not None and not self._swept.done():
            self._swept.set_exception(failure)
        for child in self._children.values():
            if not child.exited.done():
                child.exited.set_result(Exit(None))
        self._children.clear()
