"""A tiny supernet trial in this process: a trainer on digits, run to the end, or stopped and resumed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.evaluate.classification import Classification
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import Inputs
from archsearch.protocol import Assignment, StorageRef, TrialKind
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective
from archsearch.supernet.run import Loop
from archsearch.supernet.trainer import SupernetTrainer
from archsearch.supernet.workbench import Workbench
from archsearch.trial.context import TrialContext
from archsearch.zoo.nasbench201 import NASBench201

DATA = {"dataset": "digits", "trainSize": 160, "validationSize": 64}
State = tuple[dict[str, Tensor], dict[str, Any]]


class Interrupted(Exception):
    """Raised in place of the process's death."""


class Recorder:
    """A trial's line to the supervisor that remembers what was sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def poll(self) -> list[str]:
        return []


def tiny() -> nn.Module:
    """NAS-Bench-201's network, two channels, a cell a stage, for 8 x 8 images."""
    return NASBench201(channels=2, cells=1, input_channels=1)


def context_of(directory: Path, *, seed: int = 1, channel: Recorder | None = None) -> TrialContext:
    """A supernet trial's context without a worker."""
    assignment = Assignment(
        experiment="test",
        kind=TrialKind.SUPERNET,
        number=1,
        folder="trials/1",
        model_space=ModelSpace.model_validate({"zoo": {"name": "nasbench201"}}),
        evaluator=EvaluatorSpec.model_validate({"name": "classification", "config": DATA}),
        objectives=[Objective(metric="accuracy")],
        seed=seed,
        storage=StorageRef(uri=str(directory)),
    )
    return TrialContext(assignment, directory, channel=channel or Recorder(), threads=1)


def trainer_of(
    kind: type[SupernetTrainer[Any]],
    config: Mapping[str, Any],
    directory: Path,
    *,
    build: Callable[[], nn.Module] = tiny,
    source: State | None = None,
    seed: int = 1,
    channel: Recorder | None = None,
) -> SupernetTrainer[Any]:
    """A built trainer. Options are given by their names in a manifest; a batch has 32 examples unless they say else."""
    context = context_of(directory, seed=seed, channel=channel)
    options = kind.Config.model_validate({"epochs": 2, "batchSize": 32, **config})
    task = Classification.configure(DATA, "config").task()
    seed_everything(seed)
    bench = Workbench(context, options, task, build, inputs=Inputs((1, 8, 8)), source=source)
    trainer = kind(options, bench)
    seed_everything(seed)
    trainer.build()
    return trainer


def loop_of(trainer: SupernetTrainer[Any]) -> Loop:
    """The loop around a trainer."""
    from archsearch.nn import describe

    return Loop(trainer.bench.context, trainer, describe(trainer.bench.model()))


def final(trainer: SupernetTrainer[Any], *, stop_after: int | None = None) -> tuple[State, list[Any]]:
    """Train to the end (or until so many steps are done, then Interrupted); the state handed on, and what was found."""
    loop = loop_of(trainer)
    if stop_after is not None:
        step, taken = trainer.step, [0]

        def counted(epoch: int, number: int) -> Any:
            if taken[0] == stop_after:
                raise Interrupted
            taken[0] += 1
            return step(epoch, number)

        trainer.step = counted  # type: ignore[method-assign]
    loop.run()
    return trainer.bench.shared(), trainer.finish()


def resumed(
    kind: type[SupernetTrainer[Any]], config: Mapping[str, Any], directory: Path, *, at: int, **given: Any
) -> tuple[State, list[Any]]:
    """Stopped after `at` steps, and gone on with from that checkpoint by a new trainer."""
    first = trainer_of(kind, config, directory / "first", **given)
    loop = loop_of(first)
    step, taken = first.step, [0]

    def counted(epoch: int, number: int) -> Any:
        if taken[0] == at:
            raise Interrupted
        taken[0] += 1
        return step(epoch, number)

    first.step = counted  # type: ignore[method-assign]
    try:
        loop.run()
    except Interrupted:
        saved = loop._snapshot()
    else:
        raise AssertionError(f"the trial has no step {at}")
    second = trainer_of(kind, config, directory / "second", **given)
    torch.rand(7)  # what the new process drew before must not matter
    goes_on = loop_of(second)
    goes_on._restore(*saved)
    goes_on.run()
    return second.bench.shared(), second.finish()


def equal(one: State, other: State) -> bool:
    """Bit by bit."""
    return one[0].keys() == other[0].keys() and all(torch.equal(one[0][name], other[0][name]) for name in one[0])
