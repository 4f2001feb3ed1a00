"""What the worker asks of Linux: who dies with whom, who adopts orphans, what may be read, what is left running."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_READS_MEMORY = (19, 21, 38)  # CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Have `sig` sent to this process when its parent ends; at once where it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, sig)
    if os.getppid() != parent:
        os.kill(os.getpid(), sig)


def outlive_parent() -> None:
    """Undo `die_with_parent`: for a process that notices by itself, and has something to do before it ends."""
    _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, and not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No other process of this user may read this one's memory or environment, or trace it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def give_up_tracing() -> None:
    """Drop for good the capabilities with which root reads the memory even of a process that hides it."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) != 0:
        return
    words = list(struct.unpack("=6I", data.raw))  # effective, permitted, inheritable; the upper halves of the same
    for capability in _READS_MEMORY:
        half, bit = divmod(capability, 32)
        with contextlib.suppress(OSError):  # changing the bounding set is a capability of its own
            _prctl(_PR_CAPBSET_DROP, capability)
        for index in range(3 * half, 3 * half + 3):
            words[index] &= ~(1 << bit)
    _libc.capset(header, struct.pack("=6I", *words))


def children_of_all() -> dict[int, list[int]]:
    """Every live or dead (zombie) process of this machine's view by its parent."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # The command's name may hold anything, a ')' too; the fields after the last one are plain.
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        found.setdefault(int(fields[1]), []).append(int(name))
    return found


def descendants(root: int, without: Iterable[int] = ()) -> list[int]:
    """Every process below `root`. The processes in `without` are left out, what is below them is not."""
    tree = children_of_all()
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = tree.get(waiting.pop(), [])
        found += below
        waiting += below
    spared = set(without)
    return [pid for pid in found if pid not in spared]


def sweep(without: Iterable[int] = (), timeout_seconds: float = 10.0) -> int:
    """Kill every descendant of this process and reap those that became its children, until none is left.

    Needs `adopt_orphans`. Processes that fork meanwhile lose, since each round takes what the last one missed.

    Returns:
        How many were still there when the time was over (processes stuck in the kernel); 0: all are gone.
    """
    spared = set(without)
    deadline = time.monotonic() + timeout_seconds
    while True:
        _reap(spared)
        alive = [pid for pid in descendants(os.getpid(), spared) if not _is_foreign_zombie(pid)]
        if not alive:
            return 0
        if time.monotonic() > deadline:
            return len(alive)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def free_port(address: str) -> int:
    """A TCP port of `address` that nobody listens on now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def childless() -> bool:
    """True when this process has neither children nor zombies: with `adopt_orphans`, no descendant. One system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def is_alone(parent: int, child: int) -> bool:
    """Whether `child` has no descendants and is all that there is below `parent`. False where the kernel does not tell.

    Cheaper than `descendants`, which looks at every process of the machine.
    """
    try:
        return _children(parent) == [child] and not _children(child)
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(found) for task in tasks for found in (task / "children").read_text().split()]


def _reap(spared: set[int]) -> None:
    for pid in children_of_all().get(os.getpid(), []):
        if pid not in spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _is_foreign_zombie(pid: int) -> bool:
    """A dead process that a spared one has still to reap: it holds nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return fields[0] in (b"Z", b"X") and int(fields[1]) != os.getpid()
