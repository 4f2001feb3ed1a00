"""What a one-shot algorithm implements: the training of its supernet. Imports no torch, so that an algorithm's file
need not either; methods import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from archsearch.spec.base import JsonObject
from archsearch.supernet.options import SupernetConfig

if TYPE_CHECKING:
    from archsearch.space import SearchSpace
    from archsearch.supernet.workbench import Workbench

C = TypeVar("C", bound=SupernetConfig)


@dataclass(frozen=True)
class Epoch:
    """What an epoch has to say.

    Attributes:
        metrics: finite numbers; `loss` and `trainLoss` among them where they are known.
        probabilities: of every choice's options, where the algorithm has such: the ledger keeps them for plots.
        architecture: what would be taken if the search ended now, where that is defined.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    architecture: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Found:
    """An architecture that the supernet's training gives, and how good it seems (larger is better), where known."""

    architecture: Mapping[str, Any]
    score: float | None = None


class SupernetTrainer(Generic[C]):
    """Trains shared weights, step by step.

    The loop around it (`archsearch.supernet.run`) owns epochs, checkpoints, orders to stop, reports and the collapse
    alarm. A trainer registers what a checkpoint must hold with `self.bench.keep(name, object)` in `build`; what it
    keeps otherwise must follow from that and from the position. Randomness comes from `bench.generator`, `bench.rng`
    (both functions of the seed and the position) or torch's global state, which checkpoints hold.

    In a trial of several pods each runs the trainer on its share of every batch, and all must stay the same: gradients
    are averaged by `WeightOptimizer` and by every optimizer that is kept; what is measured on a batch and decides
    something, or is remembered, goes through `bench.mean`.
    """

    Config: ClassVar[type[SupernetConfig]] = SupernetConfig

    def __init__(self, config: C, bench: Workbench) -> None:
        self.config = config
        self.bench = bench

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        """Why this algorithm cannot search `space`: one sentence each. Asked by the strategy before the first trial."""
        return []

    def build(self) -> None:
        """Make the networks and optimizers. The random state is seeded; `bench.input` has an earlier trial's state."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Steps of an epoch; the first `bench.steps` of them have a weights' batch of their own."""
        return self.bench.steps

    def learns(self, epoch: int) -> bool:
        """Whether the architecture is learned in an epoch, not weights alone: the collapse alarm leaves out others."""
        return epoch >= int(getattr(self.config, "warmup_epochs", 0))

    def begin_epoch(self, epoch: int) -> None:
        """Before the first step of an epoch, not when one is resumed within."""

    def step(self, epoch: int, step: int) -> float | Any | None:
        """One step.

        Returns:
            The loss of the weights' batch, a number or a tensor of one element; None where the step is no weights' one.
        """
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> Epoch:
        """After the last step of an epoch."""
        return Epoch()

    def finish(self) -> list[Found]:
        """What was found, best first; empty where later trials choose (SPOS)."""
        return []

    def notes(self) -> JsonObject:
        """What else the strategy is told of the trained supernet: JSON, beside the architectures in the payload."""
        return {}
