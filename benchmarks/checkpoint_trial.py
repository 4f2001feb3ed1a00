"""The trial of `checkpoint.py`: trains a supernet-like network, in windows with and without checkpoints."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.nn import LayerChoice
from archsearch.store.checkpoint import write_checkpoint
from archsearch.supernet.state import state_of

CHANNELS, LAYERS, CANDIDATES, SIZE, BATCH = 64, 24, 9, 8, 16
WARM_UP_STEPS, PAUSE_SECONDS, PLAIN_COPIES = 5, 4.0, 12
_TICK = os.sysconf("SC_CLK_TCK")


class Space(nn.Module):
    """An experiment needs a space; what is trained is `Supernet`."""

    def __init__(self) -> None:
        super().__init__()
        self.choice = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="activation")

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = self.choice(x)
        return chosen


class Supernet(nn.Module):
    """Layers of candidates, of which each step takes one: with SGD's momentum 64 MB in 1,500 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS))
                for _ in range(CANDIDATES)
            )
            for _ in range(LAYERS)
        )

    def forward(self, x: Tensor, step: int) -> Tensor:
        for index, layer in enumerate(self.layers):
            candidates = list(layer.children())
            x = torch.relu(candidates[(step + index) % CANDIDATES](x)) + x
        return x


def cpu_seconds(pid: int, thread: int = 0) -> float:
    """CPU seconds that a process (or one of its threads) has used."""
    path = f"/proc/{pid}/task/{thread}/stat" if thread else f"/proc/{pid}/stat"
    fields = Path(path).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Training:
    def __init__(self, context: Any) -> None:
        torch.manual_seed(0)
        self.context = context
        self.model = Supernet()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, foreach=True)
        self.inputs = torch.randn(BATCH, CHANNELS, SIZE, SIZE)
        self.steps = 0
        self.holds: list[float] = []
        self.hold_cpus: list[float] = []
        self.saved = False
        self.waits = 0.0  # of the step under way, for the copy of the last checkpoint
        self.optimizer.register_step_pre_hook(self._settle)
        context.copied_later(self.optimizer)
        for index, parameter in enumerate(self.model.parameters()):  # each has its momentum from the start
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter) + index * 1e-6

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self.saved = True
        tensors, _ = state_of(self.model, "model.")
        slots, _ = state_of(self.optimizer, "optimizer.")
        return tensors | slots, {"steps": self.steps}

    def _settle(self, *_: Any) -> None:
        start = time.perf_counter()
        self.context.settle()
        self.waits = 1000 * (time.perf_counter() - start)

    def step(self) -> float:
        saved = self.saved
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(self.inputs, self.steps).square().mean()
        loss.backward()
        self.optimizer.step()
        if saved and self.holds:
            self.holds[-1] += self.waits
        self.steps += 1
        start, cpu, self.saved = time.perf_counter(), time.thread_time(), False
        self.context.checkpoint_point(self.snapshot)
        if self.saved:
            self.hold_cpus.append(1000 * (time.thread_time() - cpu))
            self.holds.append(1000 * (time.perf_counter() - start))
        return float(loss.detach())

    def window(self, seconds: float, interval: float) -> tuple[float, int]:
        """Train for so long, with a checkpoint every `interval` seconds; the seconds that it took, and the steps."""
        self.context.checkpoint_seconds = interval
        self.context._saved_at = time.monotonic()
        start, before = time.perf_counter(), self.steps
        while time.perf_counter() - start < seconds:
            self.step()
        return time.perf_counter() - start, self.steps - before


def fit(
    model: nn.Module, context: Any, *, interval: float, seconds: float, windows: int, server: int
) -> dict[str, float]:
    """Windows by turns without and with checkpoints; everything measured is a metric."""
    training = Training(context)
    for _ in range(WARM_UP_STEPS):
        training.step()
    context.save_checkpoint(*training.snapshot())  # the first makes the buffers and the thread
    context._saver.wait()
    time.sleep(PAUSE_SECONDS)
    context.save_checkpoint(*training.snapshot())
    context._saver.wait()
    time.sleep(PAUSE_SECONDS)
    supervisor = parent_of(parent_of(os.getpid()))
    thread = context._saver._thread.native_id
    spent = {"thread": 0.0, "supervisor": 0.0, "server": 0.0}
    idle = dict(spent)
    walls = {"off": [0.0, 0], "on": [0.0, 0]}

    def used() -> dict[str, float]:
        return {
            "thread": cpu_seconds(os.getpid(), thread),
            "supervisor": cpu_seconds(supervisor),
            "server": cpu_seconds(server),
        }

    for _ in range(windows):
        for kind, every in (("off", float("inf")), ("on", interval)):
            before = used()
            wall, steps = training.window(seconds, every)
            context._saver.wait()
            time.sleep(PAUSE_SECONDS)  # for the upload of the last one
            into = spent if kind == "on" else idle
            for name, value in used().items():
                into[name] += value - before[name]
            walls[kind][0] += wall
            walls[kind][1] += steps
    count = len(training.holds)
    plain = walls["off"][0] / walls["off"][1]
    lost = (walls["on"][0] - plain * walls["on"][1]) / count
    tensors, state = training.snapshot()
    before_ms = []
    with tempfile.TemporaryDirectory(dir=context.directory) as folder:
        for number in range(5):
            start = time.perf_counter()
            write_checkpoint(Path(folder) / str(number), tensors, state)
            before_ms.append(1000 * (time.perf_counter() - start))
    plain_ms = []
    source = torch.ones(sum(tensor.nbytes for tensor in tensors.values()) // 4)
    target = torch.ones_like(source)
    context.checkpoint_seconds = float("inf")
    for _ in range(PLAIN_COPIES):
        for _ in range(3):
            training.step()  # takes the caches, as before a checkpoint
        start = time.perf_counter()
        target.copy_(source)
        plain_ms.append(1000 * (time.perf_counter() - start))
    return {
        "megabytes": sum(tensor.nbytes for tensor in tensors.values()) / 1e6,
        "tensors": len(tensors),
        "checkpoints": count,
        "holdMedianMs": statistics.median(training.holds),
        "holdP95Ms": sorted(training.holds)[min(count - 1, round(0.95 * (count - 1)))],
        "holdCpuMedianMs": statistics.median(training.hold_cpus),
        "inCallerMedianMs": statistics.median(before_ms),
        "plainCopyMedianMs": statistics.median(plain_ms),
        "stepMs": 1000 * plain,
        "lostMs": 1000 * lost,
        "slowdownHere": lost / interval,
        "slowdownEvery30s": lost / 30.0,
        **{f"{name}CpuMs": 1000 * (spent[name] - idle[name]) / count for name in spent},
    }
