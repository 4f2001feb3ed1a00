"""The zygote: torch imported once in a process of one thread, from which every trial child is forked in milliseconds.

It never touches CUDA and never runs user code. A parent that ever ran two threads would leave its children hanging in
their first parallel operation, so the libraries are told to use one before they are imported. It adopts every orphan
below it, and says that a trial's process has ended only when nothing that the trial started is left.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

from archsearch.spec.base import JsonObject
from archsearch.worker import linux

PACKET_LIMIT = 128 * 1024


@dataclass
class _Child:
    number: int
    pid: int
    pidfd: int


def warm(runner: str) -> None:
    """Import what every trial needs; the first optimizer step alone imports a second's worth of modules."""
    import numpy  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch
    import torch.utils.data

    from archsearch.worker import child

    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1).step()
    if runner.startswith("archsearch."):
        module = sys.modules[child.load_runner(runner).__module__]
        getattr(module, "preload", lambda: None)()
    gc.collect()
    gc.freeze()  # the collector of a child leaves the shared pages alone


class Zygote:
    """Forks on request; one child at a time."""

    def __init__(self, control: socket.socket, runner: str) -> None:
        self._control = control
        self._runner = runner
        self._child: _Child | None = None

    def serve(self) -> None:
        """Until the supervisor closes its end; then nothing below this process is left."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            if self._child is not None:
                poll.register(self._child.pidfd, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._child is not None and self._child.pidfd in ready:
                poll.unregister(self._child.pidfd)
                self._collect(self._child)
            if self._control.fileno() in ready and not self._obey():
                linux.sweep()
                return

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, PACKET_LIMIT, 1)
        if not data:
            return False
        request: JsonObject = json.loads(data)
        match request["op"]:
            case "spawn":
                self._spawn(request["number"], socket.socket(fileno=descriptors[0]))
            case "kill" if self._child is not None and self._child.number == request["number"]:
                os.kill(self._child.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            case "sweep":
                spared = {self._child.pid} if self._child is not None else set()
                self._tell({"event": "swept", "left": linux.sweep(spared)})
        return True

    def _spawn(self, number: int, connection: socket.socket) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.close()
            from archsearch.worker import child

            child.main(connection, parent, self._runner)
        connection.close()
        self._child = _Child(number, pid, os.pidfd_open(pid))
        self._tell({"event": "spawned", "number": number, "pid": pid})

    def _collect(self, child: _Child) -> None:
        _, status, usage = os.wait4(child.pid, 0)
        os.close(child.pidfd)
        self._child = None
        left = 0 if linux.childless() else linux.sweep()
        self._tell(
            {
                "event": "exited",
                "number": child.number,
                "status": status,
                "cpuSeconds": usage.ru_utime + usage.ru_stime,
                "peakMemoryBytes": usage.ru_maxrss * 1024,
                "left": left,
            }
        )

    def _tell(self, event: JsonObject) -> None:
        self._control.send(json.dumps(event).encode())


def main(arguments: list[str]) -> NoReturn:
    """Arguments: the control socket's descriptor, the supervisor's process number, the runner."""
    control = socket.socket(fileno=int(arguments[0]))
    linux.die_with_parent(int(arguments[1]))
    linux.adopt_orphans()
    linux.give_up_tracing()
    try:
        warm(arguments[2])
    except Exception as error:
        control.send(json.dumps({"event": "failed", "message": f"{type(error).__name__}: {error}"[:4000]}).encode())
        raise
    threads = len(os.listdir("/proc/self/task"))
    # From here on the end of the supervisor shows as the end of the control socket, and what is below has to go first.
    linux.outlive_parent()
    control.send(json.dumps({"event": "ready", "threads": threads}).encode())
    try:
        Zygote(control, arguments[2]).serve()
    except (BrokenPipeError, ConnectionResetError):
        linux.sweep()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
