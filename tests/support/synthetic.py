"""Supernet trainers on made-up data, on any device, without installed packages but torch, numpy, pydantic."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archsearch import registry
from archsearch.evaluate.data import Scaling
from archsearch.evaluate.data.splits import Part, Split
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import Inputs
from archsearch.evaluate.tasks import ClassTask
from archsearch.protocol import Assignment, StorageRef, TrialKind
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective
from archsearch.supernet.run import find_trainer
from archsearch.supernet.trainer import SupernetTrainer
from archsearch.supernet.workbench import Workbench
from archsearch.trial.context import TrialContext

ROOT = Path(__file__).resolve().parents[2]
NOW: dict[str, dict[str, Any]] = {
    "cdarts": {"warmupEpochs": 0},
    "pc-darts": {"warmupEpochs": 0},
    "pdarts": {"warmupEpochs": 0},
    "proxylessnas": {"warmupEpochs": 0, "architectureEvery": 1},
}
"""What has an algorithm's first step be one of its weights and its architecture both."""


class Context(TrialContext):
    """A trial's context on a device of the caller's choice."""

    chosen = "cpu"

    @property
    def device(self) -> str:
        return self.chosen


def register() -> None:
    """Have names found as pyproject.toml registers them, where nothing is installed: in a plain checkout."""
    if registry.registered("archsearch.supernets"):
        return
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    registry._entries = lambda group: {name: EntryPoint(name, value, group) for name, value in groups[group].items()}


def trainers() -> dict[str, type[SupernetTrainer[Any]]]:
    """All registered trainers of supernets."""
    register()
    return {name: find_trainer(name) for name in registry.registered("archsearch.supernets")}


def images(count: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> ClassTask:
    """Noise about a picture for each class; 64 of them to validate on."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 128, (classes, *shape), generator=generator, dtype=torch.uint8)
    parts = []
    for number in (count, 64):
        labels = torch.randint(0, classes, (number,), generator=generator)
        pixels = torch.randint(0, 128, (number, *shape), generator=generator, dtype=torch.uint8)
        parts.append(Part(pixels.add_(pictures[labels]), labels))
    return ClassTask(Split(parts[0], parts[1], Scaling(1.0, (127.0,) * shape[0], (64.0,) * shape[0])), classes)


def words(count: int, length: int = 24, vocabulary: int = 1000, classes: int = 5) -> ClassTask:
    """Random sentences; the class is in the first word."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(1, vocabulary, (2 * count, length), generator=generator)
    labels = numbers[:, 0] % classes
    parts = (Part(numbers[:count], labels[:count]), Part(numbers[count:], labels[count:]))
    return ClassTask(Split(*parts, None), classes)


def bench_of(
    config: Any, task: ClassTask, build: Callable[[], nn.Module], directory: Path, *, device: str = "cpu"
) -> Workbench:
    """The surroundings of a trainer."""
    assignment = Assignment(
        experiment="synthetic",
        kind=TrialKind.SUPERNET,
        number=1,
        folder="trials/1",
        model_space=ModelSpace.model_validate({"zoo": {"name": "nasbench201"}}),
        evaluator=EvaluatorSpec.model_validate({"name": "classification", "config": {}}),
        objectives=[Objective(metric="accuracy")],
        seed=1,
        storage=StorageRef(uri=str(directory)),
    )
    context = Context(assignment, directory)
    context.chosen = device
    inputs = task.train.inputs
    tokens = int(inputs.max()) + 1 if inputs.dtype == torch.int64 else 0
    return Workbench(context, config, task, build, inputs=Inputs(tuple(inputs.shape[1:]), tokens))


def trainer_of(
    kind: type[SupernetTrainer[Any]],
    config: Mapping[str, Any],
    task: ClassTask,
    build: Callable[[], nn.Module],
    directory: Path,
    *,
    device: str = "cpu",
) -> SupernetTrainer[Any]:
    """A built trainer; the same weights on every device. DARTS-PT begins with a supernet of DARTS after one step."""
    name = next((name for name, each in trainers().items() if each is kind), "")
    options: dict[str, Any] = {"batchSize": 16, **NOW.get(name, {}), **config}
    if name == "darts-pt":
        return _selecting(kind, options, task, build, directory, device)
    bench = bench_of(kind.Config.model_validate(options), task, build, directory, device=device)
    seed_everything(1)
    trainer = kind(bench.config, bench)
    trainer.build()
    return trainer


def _selecting(
    kind: type[SupernetTrainer[Any]],
    options: Mapping[str, Any],
    task: ClassTask,
    build: Callable[[], nn.Module],
    directory: Path,
    device: str,
) -> SupernetTrainer[Any]:
    from archsearch.nn import describe
    from archsearch_strategies.algorithms.darts import DartsConfig, DartsTrainer
    from archsearch_strategies.algorithms.darts_pt import perturbation

    own = DartsConfig.model_validate({**options, "tuneEpochs": 1})
    first = trainer_of(DartsTrainer, options, task, build, directory, device=device)
    first.step(0, 0)
    config = perturbation("darts", own, describe(build()))
    bench = bench_of(config, task, build, directory, device=device)
    bench.input = first.bench.shared()
    seed_everything(1)
    trainer = kind(config, bench)
    trainer.build()
    return trainer
