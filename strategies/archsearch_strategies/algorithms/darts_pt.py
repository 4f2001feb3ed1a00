"""DARTS-PT: the architecture is what the supernet misses most, decided choice by choice between epochs of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from archsearch.errors import UserError
from archsearch.registry import find
from archsearch.space import Categorical, Rng, SearchSpace, Subset
from archsearch.spec.base import FreeForm, JsonObject
from archsearch.spec.experiment import Goal
from archsearch.supernet.edges import edges_of
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.trainer import Epoch, Found, SupernetTrainer
from archsearch_strategies.algorithms.differentiable import (
    DifferentiableConfig,
    DifferentiableTrainer,
    shared_options,
)

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.supernet.workbench import Workbench

TRAINER = "darts-pt"


class DartsPTConfig(SupernetConfig):
    """Defaults: Wang et al. 2021, section 5, and the authors' script."""

    of: Annotated[str, Field(max_length=63)] = Field(description="The trainer whose supernet the trial begins with.")
    options: FreeForm = Field(default_factory=dict, description="That trainer's options.")
    tune_epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=10, description="Epochs of training between two decisions."
    )


def perturbation(trainer: str, config: DifferentiableConfig, space: SearchSpace) -> DartsPTConfig:
    """The options of the trial that selects from a supernet that `trainer` trained under `config`."""
    highest = config.tune_learning_rate or config.learning_rate / 10
    return DartsPTConfig.model_validate(
        {
            **shared_options(config),
            "epochs": config.tune_epochs * (len(rounds(space)) - 1) + 1,
            "learning_rate": highest,
            "minimum_learning_rate": min(config.minimum_learning_rate, highest),
            "of": trainer,
            "options": config.to_json(),
            "tune_epochs": config.tune_epochs,
        }
    )


def rounds(space: SearchSpace) -> list[tuple[str, ...]]:
    """The choices that are decided together, operations first, then inputs.

    The edges of one name in several kinds of cells ("normal/op_2_0" and "reduce/op_2_0") make one round, as in the
    authors' script; every other choice makes its own.
    """
    edges = edges_of(space)
    operations = {name for inputs in edges.values() for name in inputs.values()}
    first: dict[str, list[str]] = {}
    last: dict[str, list[str]] = {}
    for choice in space.choices:
        in_cell = choice.name in operations or choice.name in edges
        key = choice.name.rpartition("/")[2] if in_cell else f"/{choice.name}"
        (last if isinstance(choice, Subset) else first).setdefault(key, []).append(choice.name)
    return [tuple(names) for names in (*first.values(), *last.values())]


def in_order(space: SearchSpace, rng: Rng) -> list[tuple[str, ...]]:
    """The rounds in a random order, those of operations before those of inputs."""
    subsets = {choice.name for choice in space.choices if isinstance(choice, Subset)}
    all_rounds = rounds(space)
    operations = [each for each in all_rounds if each[0] not in subsets]
    inputs = [each for each in all_rounds if each[0] in subsets]
    rng.shuffle(operations)
    rng.shuffle(inputs)
    return operations + inputs


class Decisions:
    """What was decided so far: {choice: positions}. Checkpoints hold it.

    Args:
        restored: called after a checkpoint was taken up.
    """

    def __init__(self, restored: Callable[[], None]) -> None:
        self.made: dict[str, tuple[int, ...]] = {}
        self._restored = restored

    def state(self) -> tuple[dict[str, Tensor], JsonObject]:
        """For a checkpoint."""
        return {}, {"made": {name: list(kept) for name, kept in self.made.items()}}

    def restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        """Go on from `state`."""
        self.made = {name: tuple(kept) for name, kept in state.get("made", {}).items()}
        self._restored()


class DartsPTTrainer(SupernetTrainer[DartsPTConfig]):
    """Decides a round of choices every `tuneEpochs` epochs, in random order; between, the supernet learns on under what
    is decided (Wang et al. 2021, algorithm 1).

    A candidate is as strong as the supernet is worse without it: its weight is set to 0, the others' stay. That is
    measured on the architecture's examples, with their own batches' statistics. The operations of a cell's edges come
    before its topology, where the weakest edges of a node are removed one by one; "none" is never kept there.
    """

    Config: ClassVar[type[DartsPTConfig]] = DartsPTConfig

    def __init__(self, config: DartsPTConfig, bench: Workbench) -> None:
        super().__init__(config, bench)
        kind = trained_by(config.of)
        own = kind.Config.model_validate(config.options)
        self.inner = kind(kind.tuning(own.model_copy(update=shared_options(config))), bench)
        self.decisions = Decisions(self._pin)

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        kind = trained_by(config.of)
        return kind.check(space, kind.Config.model_validate(config.options))

    def build(self) -> None:
        if self.bench.input is None:
            raise UserError(
                f"{TRAINER} selects from a trained supernet: params.checkpointOf must be the number of a trial of "
                f"{self.config.of}"
            )
        self.inner.compiles = False  # every decision would have it compiled anew
        self.inner.build()
        self.supernet, self.alphas = self.inner.supernet, self.inner.alphas
        for name in ("alphas", "architect"):
            try:
                taken = self.bench.take_over(name)
            except (RuntimeError, KeyError, ValueError) as error:
                raise UserError(
                    f"the checkpoint's {name} are not those of {self.config.of} on this space: {error}"
                ) from error
            if not taken:
                raise UserError(f"the checkpoint has no {name}: it is of no trial of {self.config.of}")
        self.order = in_order(self.supernet.space, self.bench.rng(TRAINER))
        self.bench.keep("decisions", self.decisions)
        if self.config.epochs <= self.config.tune_epochs * (len(self.order) - 1):
            every = self.config.tune_epochs
            raise UserError(
                f"{len(self.order)} rounds of decisions at tuneEpochs {every} need {every * (len(self.order) - 1) + 1} "
                f"epochs, not {self.config.epochs}"
            )

    def learns(self, epoch: int) -> bool:
        """From the middle on: before, most choices stand as the first trial left them, which has its own alarm."""
        return 2 * epoch >= self.config.epochs

    def begin_epoch(self, epoch: int) -> None:
        from archsearch.supernet.distributed import broadcast_object

        number, within = divmod(epoch, self.config.tune_epochs)
        if within or number >= len(self.order):
            return
        for name in self.order[number]:
            self.decisions.made[name] = tuple(broadcast_object(list(self.decide(name))))  # one for all ranks
            self._pin()

    def step(self, epoch: int, step: int) -> Tensor | float:
        loss: Tensor | float = self.inner.step(epoch, step)
        return loss

    def _pin(self) -> None:
        """Have the network follow what was decided."""
        from archsearch.supernet.network import Mixture
        from archsearch.supernet.parameters import is_free

        for name, kept in self.decisions.made.items():
            if name in self.alphas and not is_free(self.alphas.choices[name]):
                self.alphas.restrict(name, kept)
            else:
                self.supernet.pin(name, Mixture(kept))

    def decide(self, name: str) -> tuple[int, ...]:
        """The positions that are kept of a choice's options."""
        choice = self.supernet.choices[name]
        if isinstance(choice, Categorical):
            return (self._strongest(name),)
        assert isinstance(choice, Subset)  # noqa: S101 - `check` refuses all others
        left = list(range(len(choice.options)))
        if choice.choose is None:
            whole = self.merit()
            return tuple(i for i in left if self.merit({name: {i}}) < whole)
        while len(left) > choice.choose:
            gone = set(range(len(choice.options))) - set(left)
            left.remove(max(left, key=lambda i: (self.merit({name: gone | {i}}), i)))
        return tuple(left)

    def _strongest(self, name: str) -> int:
        from archsearch.supernet.parameters import ZEROS

        options = self.supernet.choices[name].options
        on_edge = any(name in inputs.values() for inputs in edges_of(self.supernet.space).values())
        left = self.alphas.left(name)
        kept = [i for i in left if not (on_edge and options[i] in ZEROS)] or list(left)
        if len(kept) == 1:
            return kept[0]
        probabilities = self.alphas.history()[name]
        return min(kept, key=lambda i: (self.merit({name: {i}}), -probabilities[i]))

    def merit(self, without: Mapping[str, Iterable[int]] | None = None) -> tuple[float, float]:
        """How good the supernet is on the architecture's examples, larger is better: the first objective where the
        evaluator gives it, and minus the loss.

        Args:
            without: options, by choice, whose weights are 0.
        """
        import torch

        from archsearch.supernet.norms import batch_statistics

        bench, model = self.bench, self.supernet.model
        sums: dict[str, Tensor] = {}
        lost, count = 0.0, 0
        with torch.no_grad(), batch_statistics(model), self.supernet.mixing(self._mixtures(without or {})):
            for chosen in parts(len(bench.architecture_part), bench.task.validation_batch):
                inputs, targets = bench.architecture_part.batch(chosen, bench.device)
                with bench.autocast():
                    output = model(bench.task.prepare(inputs)).float()
                lost, count = lost + float(bench.task.loss(output, targets)) * len(chosen), count + len(chosen)
                for name, value in bench.task.sums(output, targets).items():
                    sums[name] = sums[name] + value if name in sums else value
        metrics = bench.task.metrics({name: value.tolist() for name, value in sums.items()})
        objective = next(iter(bench.context.assignment.objectives), None)
        loss = lost / count
        if objective is None or objective.metric not in metrics:
            return -loss, 0.0
        own = metrics[objective.metric]
        return (own if objective.goal is Goal.MAXIMIZE else -own), -loss

    def _mixtures(self, without: Mapping[str, Iterable[int]]) -> dict[str, Any]:
        import torch

        from archsearch.supernet.network import Mixture

        found = DifferentiableTrainer.mixtures(self.inner)
        for name, gone in without.items():
            left = self.alphas.left(name) if name in self.alphas else range(len(self.supernet.choices[name].options))
            there = torch.tensor([float(i not in set(gone)) for i in left], device=self.bench.device)
            found[name] = Mixture(tuple(left), there * found[name].weights if name in found else there)
        return found

    def end_epoch(self, epoch: int) -> Epoch:
        history = self._history()
        with self.supernet.mixing(self._mixtures({})):
            metrics = self.bench.validate(self.supernet.model)
        return Epoch({**metrics, "decided": len(self.decisions.made)}, history, self._derived(history))

    def finish(self) -> list[Found]:
        return [Found(self._derived(self._history()))]

    def _history(self) -> dict[str, list[float]]:
        """Probabilities, and 1 or 0 for inputs that were decided."""
        decided = {
            name: [float(i in kept) for i in range(len(self.supernet.choices[name].options))]
            for name, kept in self.decisions.made.items()
            if isinstance(self.supernet.choices[name], Subset)
        }
        return {**self.alphas.history(), **decided}

    def _derived(self, history: dict[str, list[float]]) -> dict[str, Any]:
        from archsearch.supernet.parameters import derive

        return dict(derive(self.supernet.space, history))


def trained_by(name: str) -> type[DifferentiableTrainer[Any]]:
    """A trainer whose supernets DARTS-PT can select from.

    Raises:
        UserError: there is none of that name, or it is of another family.
    """
    found = find("archsearch.supernets", name)
    if not (isinstance(found, type) and issubclass(found, DifferentiableTrainer)):
        raise UserError(
            "perturbation selects from supernets of mixtures (darts, gdas, pc-darts and the like); the trainer "
            f"{name!r} has none"
        )
    return found


def parts(count: int, size: int) -> Sequence[Tensor]:
    """Rows in batches; no batch of one, which cannot be normalised, unless there is but one row."""
    import torch

    found = list(torch.split(torch.arange(count), size))
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found
