"""Checkpoints in the background: the trainer is held while its tensors are copied, a thread writes and hashes them.

What stays as it is until the trainer's next step is copied while that step computes (Mohan et al., "CheckFreq:
Frequent, Fine-Grained DNN Checkpointing", FAST 2021).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

NICENESS = 10  # of the thread: it takes the CPU that training leaves
_Seen = tuple["weakref.ref[Tensor]", tuple[Any, ...]]
PART_BYTES = 2_000_000  # that one of the two who copy takes at a time


class Buffers:
    """Host memory for one snapshot, used again for the next: pages that are there already are copied into fast.

    Args:
        helper: a thread that copies with the caller: one core alone does not fill the memory's bandwidth.
    """

    def __init__(self, helper: Executor | None = None) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._helper = helper
        self._sources: list[_Seen] = []
        self._targets: list[Tensor] = []
        self._forms: list[Any] = []
        self._parts: list[slice] = []
        self._on_gpu = False

    def take(self, tensors: Mapping[str, Tensor], later: Collection[int] = ()) -> Copying | None:
        """Copy all tensors. From a GPU into pinned memory.

        Args:
            later: `id` of those that need not be copied yet when this returns.

        Returns:
            What copies these; None where all are copied.
        """
        import torch

        sources = list(tensors.values())
        # Asked for their forms, thousands of tensors take a millisecond; the same objects have the same.
        known = zip(sources, self._sources, strict=False)
        seen = [old if old[0]() is new else _seen(new) for new, old in known]
        seen += map(_seen, sources[len(seen) :])
        self._sources, forms = seen, [form for _, form in seen]
        if forms != self._forms or list(self.tensors) != list(tensors):
            self._make(tensors, forms)
        if self._helper is not None and not self._on_gpu:
            waits = [id(source) in later for source in sources] if later else []
            if any(waits):
                now = [(s, t) for s, t, wait in zip(sources, self._targets, waits, strict=True) if not wait]
                rest = [(s, t) for s, t, wait in zip(sources, self._targets, waits, strict=True) if wait]
                copying = Copying([s for s, _ in rest], [t for _, t in rest], self._helper)
                _copy([s for s, _ in now], [t for _, t in now], deque([slice(len(now))] if now else []))
                return copying
        left = deque(self._parts)
        helped = None
        if self._helper is not None and not self._on_gpu and len(left) > 1:
            helped = self._helper.submit(_copy, sources, self._targets, left)
        _copy(sources, self._targets, left)
        if helped is not None:
            helped.result()
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        return None

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
        self._parts = list(_parts([tensor.nbytes for tensor in self._targets]))


class Copying:
    """Tensors that a thread copies while the caller goes on."""

    def __init__(self, sources: list[Tensor], targets: list[Tensor], helper: Executor) -> None:
        self._sources, self._targets = sources, targets
        self._versions = [source._version for source in sources]
        self._left = deque(_parts([target.nbytes for target in targets]))
        self._helped = helper.submit(_copy, sources, targets, self._left)

    def finish(self) -> bool:
        """Copy what is left together with the thread.

        Returns:
            Whether all stayed as they were in the meantime.
        """
        _copy(self._sources, self._targets, self._left)
        self._helped.result()
        return all(source._version == old for source, old in zip(self._sources, self._versions, strict=True))


def _copy(sources: list[Tensor], targets: list[Tensor], left: deque[slice]) -> None:
    """Copy the parts that are left, one after the other, until whoever else takes of them took the last."""
    import torch

    with torch.no_grad(), contextlib.suppress(IndexError):
        while True:
            part = left.popleft()
            torch._foreach_copy_(targets[part], sources[part], non_blocking=True)


def _seen(tensor: Tensor) -> _Seen:
    """A tensor, which is the trainer's to free, and its form."""
    return weakref.ref(tensor), (tensor.shape, tensor.dtype, tensor.stride(), tensor.is_cuda)


def _parts(sizes: list[int]) -> Iterator[slice]:
    """Neighbours that have `PART_BYTES` together, and what is left."""
    start = held = 0
    for index, size in enumerate(sizes):
        held += size
        if held >= PART_BYTES or index == len(sizes) - 1:
            yield slice(start, index + 1)
            start, held = index + 1, 0


@dataclass(frozen=True)
class _Job:
    name: str
    buffers: Buffers
    state: JsonObject


class Saver:
    """Writes one checkpoint at a time. One that waits is replaced by a newer one.

    The threads start with the first checkpoint, so that a process forked before has none.

    Args:
        folder: where the checkpoints' folders are made.
        announce: called from the thread with the name of each that is complete.
    """

    def __init__(self, folder: Path, announce: Callable[[str], None]) -> None:
        self._folder = folder
        self._announce = announce
        self._changed = threading.Condition()
        # A thread of its own: the writer's would hold up the trainer, being nice.
        self._helper = ThreadPoolExecutor(1, "archsearch-copies") if len(os.sched_getaffinity(0)) > 1 else None
        self._free = [self._buffers(), self._buffers()]  # one is written from while the other takes the next snapshot
        self._copied: tuple[_Job, Copying] | None = None  # the newest, as long as it is being copied
        self._later = True
        self._waiting: _Job | None = None
        self._writing = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def save(self, name: str, tensors: Mapping[str, Tensor], state: JsonObject, later: Collection[int] = ()) -> None:
        """Copy a snapshot and have it written.

        Args:
            later: `id` of tensors that stay as they are until `settle` is called.

        Raises:
            ValueError, TypeError: `state` is no JSON.
            OSError: an earlier checkpoint could not be written.
        """
        self.settle()
        self._check()
        state = json.loads(json.dumps(state, allow_nan=False))  # as it is now
        with self._changed:
            replaced, self._waiting = self._waiting, None
            buffers = replaced.buffers if replaced is not None else self._free.pop()
        try:
            copying = buffers.take(tensors, later if self._later else ())
        except BaseException:
            with self._changed:
                self._free.append(self._buffers())
            raise
        job = _Job(name, buffers, state)
        if copying is None:
            self._write_next(job)
        else:
            self._copied = job, copying

    def settle(self) -> None:
        """To be called before anything changes that `save` was told it may copy later."""
        if self._copied is None:
            return
        (job, copying), self._copied = self._copied, None
        try:
            whole = copying.finish()
        except BaseException:
            with self._changed:
                self._free.append(self._buffers())
            raise
        if whole:
            self._write_next(job)
            return
        # What is half old and half new must not be written; the next ones are copied at once.
        logger.warning("checkpoint %s is left out: tensors changed while they were copied", job.name)
        self._later = False
        with self._changed:
            self._free.append(job.buffers)

    def _write_next(self, job: _Job) -> None:
        with self._changed:
            self._waiting = job
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="archsearch-checkpoints", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until everything saved is written.

        Raises:
            OSError: it could not be written.
        """
        self.settle()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._writing)
        self._check()

    def close(self) -> None:
        """Write what waits, and end the thread. Raises as `wait`."""
        self.settle()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._helper is not None:
            self._helper.shutdown()
        self._check()

    def _buffers(self) -> Buffers:
        return Buffers(self._helper)

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
