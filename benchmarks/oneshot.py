"""Time and memory of a step of every one-shot algorithm, beside a plain network's and a naive mixture's.

    python benchmarks/oneshot.py                            # everything, on the CPU: minutes
    python benchmarks/oneshot.py --space nasbench201 --only naive darts   # one space, some algorithms
    python benchmarks/oneshot.py --space nasbench201 --only darts --compile
    python benchmarks/oneshot.py --device cuda --json oneshot.json

Every case is a process of its own: 2 threads, batches of 16 images of 3x32x32, width 16, 3 cells (NAS-Bench-201: one a
stage); textnas on sentences, in its own space. A step is an update of the architecture and one of the weights (spos has
no former); a controller's proposals, the weight update's too, are time of the architecture. After the warm-up, steps
take turns with the same weight update of the plain network that computes what the step's path did: the drawn
operations, on every edge that the algorithm keeps in search (gdas and proxylessnas sum all edges of a cell of DARTS,
which are chosen only when the search is over), pools normalised where the supernet's are. Of mixtures it is a network
drawn at random. On a space of images they also take turns with the step of a mixed operation written out,
``sum(w * op(x))``, with one backward pass into everything. All are medians of the same rounds. Ratios are medians of
the rounds' ratios. Memory is the peak of the process before the others join, above what it was with everything loaded
(the compiler too, where it is asked for) and no network made; what compiling takes is left out.

Runs from a plain checkout with torch, numpy, pydantic and safetensors.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _part in ("trial_image", "strategies", "tests"):
    sys.path.insert(0, str(ROOT / _part))

from memory import Memory  # noqa: E402 - beside this file

IMAGES = ("nasbench201", "darts")
SPACES = [*IMAGES, "textnas"]
REFERENCES = ("naive", "plain")
ARCHITECTURE = ("architecture_step", "gate_step", "joint_step", "controller_step")
CONFIG = {"enas": {"controllerSamples": 1}, "textnas": {"controllerSamples": 1}}
WORDS, LAYERS, VOCABULARY = 24, 6, 1000
Decisions = Mapping[str, Any]


def main() -> None:
    """Parent or, with --case, child."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="algorithms, and plain, naive")
    parser.add_argument("--space", nargs="+", default=SPACES, choices=SPACES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="the networks of mixtures; not the references")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--case", nargs=2, metavar=("SPACE", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and (reason := without_cuda()):
        print(f"skipped: {reason}; --device cpu measures here")
        return
    if options.case:
        print(json.dumps(measure(*options.case, options)))
        return
    found = []
    for space, name in cases(options.space, options.only):
        found.append(run(space, name, options))
        print_row(found, options.device)
        if options.json:
            partial = options.json.with_suffix(".part")
            partial.write_text(json.dumps({"options": vars(options) | {"json": None}, "rows": found}, indent=1))
            partial.replace(options.json)


def without_cuda() -> str:
    """Why nothing can be measured on a GPU; empty where it can."""
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def cases(spaces: list[str], only: list[str]) -> list[tuple[str, str]]:
    """(space, algorithm); the references lead each space."""
    from support.synthetic import trainers

    names = [name for name in trainers() if name != "textnas"]
    found = [(space, name) for space in IMAGES for name in (*REFERENCES, *names)]
    found += [("textnas", name) for name in ("plain", "textnas")]
    if unknown := sorted(set(only) - {name for _, name in found}):
        raise SystemExit(f"--only {unknown[0]}: known are {', '.join(sorted({name for _, name in found}))}")
    return [(space, name) for space, name in found if space in spaces and (not only or name in only)]


def run(space: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A case in a process of its own."""
    arguments = [
        f"--{key}={getattr(options, key)}" for key in ("device", "steps", "warmup", "threads", "batch", "width")
    ]
    command = [sys.executable, __file__, "--case", space, name, *arguments, *(["--compile"] if options.compile else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{space} {name} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def print_row(found: list[dict[str, Any]], device: str) -> None:
    """The newest row, under a header where a space begins."""
    row = found[-1]
    if len(found) == 1 or found[-2]["space"] != row["space"]:
        share = "  kernels" if device == "cuda" else ""
        print(
            f"\n{row['space']:<12} {'step':>8} {'= arch':>8} {'+ weights':>9} {'plain':>7} {'ratio':>6} {'naive':>8} "
            f"{'ratio':>6} {'memory':>8} {'/ naive':>7}{share}"
        )

    def number(value: float | None, width: int, digits: int = 1) -> str:
        return f"{value:>{width}.{digits}f}" if value is not None else " " * width

    of_naive = [each for each in found if each["space"] == row["space"] and each["name"] == "naive"]
    memory = row["memoryMB"] / of_naive[0]["memoryMB"] if of_naive and row["name"] != "naive" else None
    print(
        f"{row['name']:<12} {number(row['step'], 8)} {number(row['architecture'], 8)} {number(row['weights'], 9)} "
        f"{number(row.get('plain'), 7)} {number(row.get('ofPlain'), 6, 2)} {number(row.get('naive'), 8)} "
        f"{number(row.get('ofNaive'), 6, 2)} {number(row['memoryMB'], 8)} {number(memory, 7, 2)}"
        f"{number(row.get('kernelShare'), 9, 2) if device == 'cuda' else ''}{'  compiled' if row['compiled'] else ''}",
        flush=True,
    )


# --- in a case's own process


class Clock:
    """Milliseconds by name, one entry a round."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: dict[str, list[float]] = {}

    def now(self) -> float:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    def add(self, name: str, milliseconds: float) -> None:
        self.times.setdefault(name, []).append(milliseconds)

    def ratio(self, one: str, other: str) -> float | None:
        """The median of the rounds' ratios."""
        pairs = zip(self.times.get(one, []), self.times.get(other, []), strict=False)
        found = [mine / theirs for mine, theirs in pairs]
        return statistics.median(found) if found else None

    def median(self, name: str) -> float | None:
        return statistics.median(self.times[name]) if self.times.get(name) else None


class Case:
    """A trainer, and its step taken apart."""

    def __init__(self, trainer: Any, clock: Clock, prefix: str = "") -> None:
        self.trainer, self.clock, self.prefix = trainer, clock, prefix
        inner = getattr(trainer, "inner", trainer)
        self.supernet = inner.supernet
        self.path: Decisions | None = None  # what the last step's weights were updated on, where it was a single path
        self._timing, self._spent = False, 0.0
        self._batch = trainer.bench.weight_batch
        trainer.bench.weight_batch = self._noted
        for name in ARCHITECTURE:
            if hasattr(inner, name):
                setattr(inner, name, self._timed(getattr(inner, name)))
        if controller := getattr(inner, "controller", None):
            controller.propose = self._timed(controller.propose)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._timing:  # within another one
                return function(*args, **kwargs)
            self._timing, since = True, self.clock.now()
            found = function(*args, **kwargs)
            self._spent += self.clock.now() - since
            self._timing = False
            return found

        return timed

    def _noted(self) -> Any:
        """Whose weights are about to be updated."""
        from archsearch.space import Subset

        supernet = self.supernet
        self.path = supernet.architecture
        if self.path is None:
            chosen = {name: supernet.mixture(name).chosen for name in supernet.choices}
            inputs = {name for name, choice in supernet.choices.items() if isinstance(choice, Subset)}
            if all(len(found) == 1 for name, found in chosen.items() if name not in inputs):
                options = {name: [supernet.choices[name].options[at] for at in found] for name, found in chosen.items()}
                self.path = {name: tuple(found) if name in inputs else found[0] for name, found in options.items()}
        return self._batch()

    def step(self, number: int, *, timed: bool = True) -> None:
        trainer, clock = self.trainer, self.clock
        trainer.bench.step = number
        self._spent, since = 0.0, clock.now()
        trainer.step(0, number)
        if hasattr(trainer, "controller_step"):
            trainer.controller_step(number)
        whole = clock.now() - since
        if not timed:
            return
        clock.add(f"{self.prefix}step", whole)
        clock.add(f"{self.prefix}weights", whole - self._spent)
        if self._spent:
            clock.add(f"{self.prefix}architecture", self._spent)


class Plain:
    """The weight updates of plain networks: what a training without any choice costs.

    Args:
        pools: normalise the outputs of pools, as supernets of the DARTS family do.
    """

    def __init__(self, bench: Any, *, pools: bool = False) -> None:
        from archsearch.nn import LayerChoice
        from archsearch.nn.describe import collect
        from archsearch.supernet.mixing import Normalised

        self.bench = bench
        self.model = bench.model()
        for layer in [module for module in self.model.modules() if isinstance(module, LayerChoice)] if pools else []:
            layer._modules |= {name: Normalised(layer[name]) for name in layer.names if "pool" in name}
        space, self._fixing = collect(self.model)
        self.any: Decisions = space.sample(bench.rng("plain"))

    def network(self, decisions: Decisions | None = None) -> tuple[Any, Any]:
        """A network after a first update, which made its momenta; without decisions that of a random architecture.

        Args:
            decisions: an architecture, but that any number of inputs may be taken: what a supernet computes in search.
        """
        from archsearch.nn.fixing import under
        from archsearch.supernet.optimization import WeightOptimizer

        with under(replace(self._fixing, decisions=decisions or self.any)):  # `fix` would refuse more inputs
            plain = copy.deepcopy(self.model).train()
        made = plain, WeightOptimizer(plain.parameters(), self.bench.config, 1000, self.bench.device)
        self.update(made)
        return made

    def update(self, network: tuple[Any, Any]) -> None:
        plain, optimizer = network
        optimizer.step(self.bench.loss(plain, self.bench.weight_batch()), self.bench.done)


def measure(space: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A case's medians in milliseconds, and its memory."""
    import torch
    from support.synthetic import images, words

    torch.set_num_threads(options.threads)
    count = 4 * options.batch * (options.steps + options.warmup + 8)
    task = words(count, WORDS, VOCABULARY) if space == "textnas" else images(count)
    with tempfile.TemporaryDirectory() as directory:
        made = builder(space, options, task, Path(directory))
        row = {"space": space, "name": name, "compiled": False}
        if name == "plain":
            return row | alone(made, "textnas" if space == "textnas" else "spos", options)
        return row | compared(name, made, options, mixed=space in IMAGES and name != "naive")


def alone(made: Callable[[str], Any], host: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a plain network, with the data and options of the trainer `host`."""
    Case(made(f"tiny {host}"), Clock(options.device)).step(0)
    bench = made(host).bench
    clock, memory = Clock(options.device), Memory(options.device)
    plain = Plain(bench)
    network = plain.network()
    for number in range(options.warmup + options.steps):
        bench.step = number
        since = clock.now()
        plain.update(network)
        clock.add("weights", clock.now() - since)
    weights = statistics.median(clock.times["weights"][options.warmup :])
    return {"step": weights, "architecture": None, "weights": weights, "memoryMB": memory.peak()}


def compared(name: str, made: Callable[[str], Any], options: argparse.Namespace, *, mixed: bool) -> dict[str, Any]:
    """An algorithm's figures, and of the same rounds a plain network's and a naive mixture's."""
    Case(made(f"tiny {name}"), Clock(options.device)).step(0)  # all that it imports is there, before memory is counted
    clock, memory = Clock(options.device), Memory(options.device, compiler=options.compile)
    case = Case(made(name), clock)
    for number in range(options.warmup + 3):
        case.step(number)
        if number == 0 and options.compile:
            memory.reset()  # what compiling takes is over by now
    row: dict[str, Any] = {
        "compiled": bool((compiled := case.trainer.bench.compiled) and compiled.works),
        "memoryMB": memory.peak(),
    }
    if options.device == "cuda":
        row["kernelShare"] = kernel_share(case, options.warmup + 3)
    plain = Plain(case.trainer.bench, pools=case.supernet.normalise_pools)
    fixed = plain.network()
    naive = Case(made("naive"), clock, "naive ") if mixed else None
    path = case.path
    for turn in range(-1, options.steps):
        if turn == 0:
            clock.times.clear()  # the others are warm now
        number = options.warmup + 4 + turn
        if path is not None:
            case.step(number, timed=False)  # caches and memory as `network` leaves them for the plain update
        case.step(number)
        path = case.path
        network = fixed if path is None else plain.network(path)
        since = clock.now()
        plain.update(network)
        clock.add("plain", clock.now() - since)
        if naive is not None:
            naive.step(number)
    keys = {
        "step": "step",
        "architecture": "architecture",
        "weights": "weights",
        "plain": "plain",
        "naive": "naive step",
    }
    return row | {
        **{key: clock.median(found) for key, found in keys.items()},
        "ofPlain": clock.ratio("weights", "plain"),
        "ofNaive": clock.ratio("step", "naive step"),
    }


def builder(space: str, options: argparse.Namespace, task: Any, directory: Path) -> Callable[[str], Any]:
    """Makes trainers by name."""
    from support.synthetic import trainer_of, trainers

    from archsearch.zoo.darts import DARTS
    from archsearch.zoo.nasbench201 import NASBench201
    from archsearch.zoo.textnas import TextNAS

    kinds = trainers()

    def build(width: int = options.width) -> Any:
        if space == "nasbench201":
            return NASBench201(channels=width, cells=1)
        if space == "darts":
            return DARTS(channels=width, cells=3)
        return TextNAS(vocabulary=VOCABULARY, embedding_size=width, hidden=2 * width, layers=LAYERS)

    def made(name: str) -> Any:
        config: dict[str, Any] = {"batchSize": options.batch, "compile": options.compile, **CONFIG.get(name, {})}
        if tiny := name.startswith("tiny "):
            name = name.removeprefix("tiny ")
            config |= {"batchSize": 2, "compile": False}
        kind = naive_trainer() if name == "naive" else kinds[name]
        if name == "naive":
            config |= {"channelsLast": False, "compile": False}
        maker = partial(build, 4) if tiny else build
        return trainer_of(kind, config, task, maker, directory, device=options.device)

    return made


def naive_trainer() -> type[Any]:
    """First-order DARTS as one would write it down."""
    import torch

    from archsearch_strategies.algorithms.darts import DartsTrainer

    def written_out(modules: Any, args: Any, kwargs: Any, mixture: Any) -> Any:
        total: Any = 0
        for weight, module in zip(mixture.weights, modules, strict=True):
            total = total + weight * module(*args, **kwargs)
        return total

    class Naive(DartsTrainer[Any]):
        def make_supernet(self) -> Any:
            supernet = super().make_supernet()
            supernet.mixers = dict.fromkeys(supernet.layers, written_out)
            return supernet

        def architecture_gradients(self, batch: Any, parameters: Any) -> Any:
            self.weights.zero()
            for parameter in parameters:
                parameter.grad = None
            self.follow()
            self.bench.loss(self.supernet.model, batch).backward()
            return [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]

        def step(self, epoch: int, step: int) -> Any:
            self.supernet.model.train()
            self.architecture_step(self.bench.architecture_batch())
            self.follow()
            loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
            self.weights.step(loss, self.bench.done)
            return loss

    return Naive


def kernel_share(case: Case, begin: int, steps: int = 5) -> float:
    """The part of the time in which the device runs kernels; the rest it waits to be told."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    since = case.clock.now()
    for number in range(begin, begin + steps):
        case.step(number)
    wall = case.clock.now() - since
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for number in range(begin, begin + steps):
            case.step(number)
        torch.cuda.synchronize()
    busy: float = sum(event.self_device_time_total for event in profiler.key_averages()) / 1000
    return busy / wall


if __name__ == "__main__":
    main()
