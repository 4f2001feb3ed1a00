"""Rungs: the fidelities at which the algorithms of successive halving compare architectures."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Annotated, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from archsearch.errors import UserError
from archsearch.protocol import FIDELITY, RESUMED_FIDELITY, TrialState
from archsearch.space import Architecture
from archsearch.spec.base import JsonObject
from archsearch_strategies.strategy import CHECKPOINT_OF, Run, Strategy, StrategyConfig, Submission, Trial

Fidelity = Annotated[int, Field(ge=1, le=1_000_000)]


class FidelityConfig(StrategyConfig):
    """Options of the strategies that promote architectures from one fidelity to the next."""

    min_fidelity: Fidelity = Field(
        default=1, description="Least training before architectures are compared, in epochs or the evaluator's unit."
    )
    max_fidelity: Fidelity | None = Field(
        default=None, description="Training in full; absent: what the evaluator's own configuration says."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_fidelity is not None and self.max_fidelity < self.min_fidelity:
            raise ValueError(f"maxFidelity ({self.max_fidelity}) is below minFidelity ({self.min_fidelity})")
        return self


C = TypeVar("C", bound=FidelityConfig)


class Halving(Strategy[C], Generic[C]):
    """Base of the algorithms of successive halving. A subclass says by what factor its rungs are apart."""

    Config: ClassVar[type[StrategyConfig]] = FidelityConfig
    reuses_weights: ClassVar[bool] = True
    multi_fidelity: ClassVar[bool] = True

    @property
    def reduction(self) -> int:
        """The factor."""
        raise NotImplementedError

    @property
    def levels(self) -> list[int]:
        """The fidelities of the rungs, ascending.

        Raises:
            UserError: no highest fidelity is known, or the evaluator has not the one that is asked for.
        """
        return levels(self.config.min_fidelity, self.config.max_fidelity, self.reduction, self.fidelities)

    @property
    def highest_fidelity(self) -> float | None:
        return float(self.levels[-1])

    def check_fidelities(self) -> list[str]:
        try:
            found = self.levels
        except UserError as error:
            return [str(error)]
        if len(found) < 2:
            return [
                f"the only fidelity is {found[0]}, and with one there is nothing to promote to: "
                "lower minFidelity, or have trials train longer (epochs, maxFidelity)"
            ]
        return []


def levels(least: int, most: int | None, reduction: int, known: Sequence[int]) -> list[int]:
    """Fidelities for rungs, ascending: `most` divided by powers of `reduction`, each the nearest that there is.

    Args:
        most: None: the highest known.
        known: what the evaluator offers, ascending; empty: anything up to `most`.

    Raises:
        UserError: none fits.
    """
    if most is None:
        if not known:
            raise UserError(
                "how far a training in full goes is not known here: give maxFidelity, in the evaluator's unit"
            )
        most = known[-1]
    usable = [each for each in known if least <= each <= most] if known else range(least, most + 1)
    if not usable or usable[-1] != most:
        raise UserError(f"{_offer(known)}; between minFidelity {least} and maxFidelity {most} {_lack(usable, most)}")
    found, target = {most}, most / reduction
    while target >= usable[0]:
        found.add(_nearest(usable, target))
        target /= reduction
    if len(found) == 1:
        found.add(usable[0])
    return sorted(found)


def _offer(known: Sequence[int]) -> str:
    if len(known) > 1 and known[-1] - known[0] == len(known) - 1:
        return f"the evaluator offers the fidelities {known[0]} to {known[-1]}"
    return f"the evaluator offers the fidelities {', '.join(map(str, known))}"


def _lack(usable: Sequence[int], most: int) -> str:
    return f"is {usable[-1]} the highest: give that as maxFidelity" if usable else "there is none"


def _nearest(usable: Sequence[int], target: float) -> int:
    """By ratio."""
    index = bisect_left(usable, target)
    return min(usable[max(0, index - 1) : index + 1], key=lambda each: abs(math.log(each / target)))


class Rung:
    """The architectures that were trained to one fidelity: how many, and which of them were promoted."""

    def __init__(self, fidelity: int) -> None:
        self.fidelity = fidelity
        self.sent = 0
        self.ended = 0
        self.ranked = 0  # those with a result
        self._waiting: list[tuple[float, int, Trial]] = []  # a heap, the best first
        self._promoted: list[tuple[float, int]] = []  # sorted, the best first

    @property
    def out(self) -> int:
        return self.sent - self.ended

    @property
    def usable(self) -> int:
        """How many were promoted or still may be."""
        return len(self._waiting) + len(self._promoted)

    def add(self, trial: Trial) -> None:
        """A trial of this rung has ended.

        One without a result does not count among those that are compared; one that was stopped counts, and is never
        promoted.
        """
        self.ended += 1
        if not trial.ok:
            return
        self.ranked += 1
        if trial.state is not TrialState.PRUNED:
            heapq.heappush(self._waiting, (-trial.score, trial.number, trial))

    def best(self, places: int) -> bool:
        """Whether the best that was not promoted stands among the first `places` of those that might be."""
        return bool(self._waiting) and bisect_left(self._promoted, self._waiting[0][:2]) < places

    def promote(self, above: Rung) -> Submission:
        """Let the best that was not promoted go on to the rung above, from its own weights where it has any."""
        loss, number, trial = heapq.heappop(self._waiting)
        insort(self._promoted, (loss, number))
        above.sent += 1
        params: JsonObject = {FIDELITY: above.fidelity, RESUMED_FIDELITY: self.fidelity}
        if trial.weights:
            params[CHECKPOINT_OF] = number
        return Submission(trial.architecture, params=params, replicate=trial.replicate)

    def enter(self, architecture: Architecture) -> Submission:
        """Train a new architecture to this rung's fidelity."""
        self.sent += 1
        return Submission(architecture, params={FIDELITY: self.fidelity})


def left(run: Run) -> float:
    """Trials that the budget still allows."""
    return math.inf if run.max_trials is None else run.max_trials - run.submitted
