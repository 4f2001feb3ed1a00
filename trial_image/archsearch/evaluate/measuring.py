"""What a network costs: parameters, multiply-adds, latency and peak memory of one forward pass. Imports torch."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import platform
import statistics
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from archsearch.errors import UserError
from archsearch.evaluate.base import PROFILE_METRICS
from archsearch.evaluate.profile import count

WARM_UP, REPEATS = 5, 30


@dataclass(frozen=True)
class Inputs:
    """What one input of a network is.

    Attributes:
        shape: without the batch.
        tokens: for networks of token numbers how many there are (inputs are int64 below it); 0: float32 inputs.
    """

    shape: tuple[int, ...]
    tokens: int = 0

    def example(self, batch: int = 1) -> Tensor:
        """Random inputs, always the same: float32 from a normal distribution, or token numbers."""
        generator = torch.Generator().manual_seed(0)
        if self.tokens:
            return torch.randint(0, self.tokens, (batch, *self.shape), generator=generator)
        return torch.randn(batch, *self.shape, generator=generator)


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once; buffers are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-adds of one forward pass in eval mode, batch of one.

    Raises:
        UserError: the network does not take inputs of this shape.
    """
    try:
        return count(model, inputs.shape, torch.int64 if inputs.tokens else torch.float32).macs
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
        pass  # not every network goes without its data; what is wrong with it for real shows below
    counter = FlopCounterMode(display=False)
    # Fused attention and recurrent kernels are unknown to the counter; the same network of plain products is counted.
    with _plain_products(), counter:
        _forward(model, inputs.example().to(_device(model)))
    return int(counter.get_total_flops()) // 2


def profile_metrics(
    names: Sequence[str], model: nn.Module, inputs: Inputs, *, threads: int = 1, lock: Path | None = None
) -> dict[str, float]:
    """Those of `PROFILE_METRICS` that `names` asks for; other names are passed over, and nothing unasked is measured.

    Args:
        model: On the device to measure on; left in the mode that it is in, its buffers untouched.
        threads: CPU threads during the measurement of latency.
        lock: A file; processes that name the same one measure one after another.

    Raises:
        UserError: the network does not take inputs of this shape.
    """
    found: dict[str, float] = {}
    if "params" in names:
        found["params"] = parameters(model)
    if {"macs", "flops"} & set(names):
        macs = multiply_adds(model, inputs)
        found |= {name: value for name, value in (("macs", macs), ("flops", 2 * macs)) if name in names}
    if "peakMemoryBytes" in names:
        found["peakMemoryBytes"] = peak_memory(model, inputs)
    if {"latencyMs", "latencySpreadMs"} & set(names):
        measured = latency(model, inputs, threads=threads, lock=lock)
        spread = {"latencyMs": measured.median, "latencySpreadMs": measured.spread}
        found |= {name: value for name, value in spread.items() if name in names}
    return {name: float(found[name]) for name in PROFILE_METRICS if name in found}


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass, batch of one: the median, and the distance between the quartiles."""

    median: float
    spread: float
    repeats: int
    threads: int
    device: str


def latency(
    model: nn.Module,
    inputs: Inputs,
    *,
    threads: int = 1,
    warm_up: int = WARM_UP,
    repeats: int = REPEATS,
    lock: Path | None = None,
) -> Latency:
    """Measure forward passes in eval mode on the model's device.

    On a CPU the process keeps to `threads` processors for the time of it, so that the scheduler does not move it.
    """
    device = _device(model)
    example = inputs.example().to(device)
    times: list[float] = []
    with _alone(lock), _pinned(threads):
        for repeat in range(warm_up + repeats):
            _synchronise(device)
            start = time.perf_counter()
            _forward(model, example)
            _synchronise(device)
            if repeat >= warm_up:
                times.append(1000 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Latency(median, high - low, repeats, threads, device_name(device))


def peak_memory(model: nn.Module, inputs: Inputs) -> int:
    """Bytes of parameters and buffers and of the tensors that are alive at the same time in one forward pass.

    In eval mode without gradients, batch of one. Counted by tensor, so that it depends on neither allocator nor device;
    a kernel's own scratch space is not in it.
    """
    example = inputs.example().to(_device(model))
    watch = _LiveBytes()
    for tensor in (*model.parameters(), *model.buffers(), example):
        watch.see(tensor)
    with watch:
        _forward(model, example)
    return watch.peak


def device_name(device: torch.device) -> str:
    """The model of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, and takes them off when they are let go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.see(value)
        return result


def _forward(model: nn.Module, example: Tensor) -> None:
    """One pass in eval mode; every module's own mode is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"the network does not take inputs of shape {tuple(example.shape)}: {error}") from error
    finally:
        for module, training in modes:
            module.training = training


def _device(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _plain_products() -> Iterator[None]:
    fast, one_dnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # its public form warns about GPUs that are not there
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch._C._set_mkldnn_enabled(one_dnn)
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Exactly `threads` threads, on as many processors."""
    before, allowed = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(threads)
    _bind(set(sorted(allowed)[-threads:]))
    try:
        yield
    finally:
        _bind(allowed)
        torch.set_num_threads(before)


def _bind(processors: set[int]) -> None:
    """Every thread of this process: those of torch's pool are there already, and would stay where they are."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile, or the container may not
            os.sched_setaffinity(int(task.name), processors)
