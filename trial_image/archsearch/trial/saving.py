"""Checkpoints in the background: the trainer is held while its tensors are copied, a thread writes and hashes them."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

NICENESS = 10  # of the thread: it takes the CPU that training leaves


class Buffers:
    """Host memory for one snapshot, used again for the next: pages that are there already are copied into fast."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._targets: list[Tensor] = []
        self._forms: list[Any] = []
        self._on_gpu = False

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy all tensors; done when this returns. From a GPU into pinned memory."""
        import torch

        sources = list(tensors.values())
        forms = [(each.shape, each.dtype, each.stride(), each.is_cuda) for each in sources]
        if forms != self._forms or list(self.tensors) != list(tensors):
            self._make(tensors, forms)
        if sources:  # the state may be JSON alone
            with torch.no_grad():
                torch._foreach_copy_(self._targets, sources, non_blocking=True)
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()

    def _make(self, tensors: Mapping[str, Tensor], forms: list[Any]) -> None:
        import torch

        known = dict(zip(self.tensors, self._forms, strict=True))
        self.tensors = {
            name: self.tensors[name]
            if known.get(name) == form
            else torch.empty_like(tensor.detach(), device="cpu", pin_memory=tensor.is_cuda)
            for (name, tensor), form in zip(tensors.items(), forms, strict=True)
        }
        self._targets, self._forms = list(self.tensors.values()), forms
        self._on_gpu = any(tensor.is_cuda for tensor in tensors.values())


@dataclass(frozen=True)
class _Job:
    name: str
    buffers: Buffers
    state: JsonObject


class Saver:
    """Writes one checkpoint at a time. One that waits is replaced by a newer one.

    The thread starts with the first checkpoint, so that a process forked before has none.

    Args:
        folder: where the checkpoints' folders are made.
        announce: called from the thread with the name of each that is complete.
    """

    def __init__(self, folder: Path, announce: Callable[[str], None]) -> None:
        self._folder = folder
        self._announce = announce
        self._changed = threading.Condition()
        self._free = [Buffers(), Buffers()]  # one is written from while the other takes the next snapshot
        self._waiting: _Job | None = None
        self._writing = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def save(self, name: str, tensors: Mapping[str, Tensor], state: JsonObject) -> None:
        """Copy a snapshot and have it written.

        Raises:
            ValueError, TypeError: `state` is no JSON.
            OSError: an earlier checkpoint could not be written.
        """
        self._check()
        state = json.loads(json.dumps(state, allow_nan=False))  # as it is now
        with self._changed:
            replaced, self._waiting = self._waiting, None
            buffers = replaced.buffers if replaced is not None else self._free.pop()
        try:
            buffers.take(tensors)
        except BaseException:
            with self._changed:
                self._free.append(Buffers())
            raise
        with self._changed:
            self._waiting = _Job(name, buffers, state)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="archsearch-checkpoints", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until everything saved is written.

        Raises:
            OSError: it could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._writing)
        self._check()

    def close(self) -> None:
        """Write what waits, and end the thread. Raises as `wait`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._check()

    def _check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        while (job := self._next()) is not None:
            try:
                self._write(job)
            except BaseException as error:
                self._error = error
            with self._changed:
                self._free.append(job.buffers)
                self._writing = False
                self._changed.notify_all()

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closed)
            job, self._waiting = self._waiting, None
            self._writing = job is not None
            return job

    def _write(self, job: _Job) -> None:
        from archsearch.store.checkpoint import write_checkpoint

        write_checkpoint(self._folder / job.name, job.buffers.tensors, job.state)
        self._announce(job.name)
