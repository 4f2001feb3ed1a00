"""What a strategy is given to search with, and what comes out of it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import coroutine
from typing import Any

from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture, Rng, SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Objective
from archsearch_strategies.strategy.trial import (
    CHECKPOINT_OF,
    Json,
    PriorPoint,
    Result,
    StrategyError,
    Submission,
    Trial,
    objective_values,
)


# What an execution puts out, in order.
@dataclass(frozen=True)
class Submit:
    trial: Trial


@dataclass(frozen=True)
class Stage:
    name: str


@dataclass(frozen=True)
class Note:
    name: str
    value: JsonObject


@dataclass(frozen=True)
class Stop:
    number: int


@dataclass(frozen=True)
class Compute:
    """The strategy waits for `compute()`, a JSON value; feed it with `Execution.answer`."""

    compute: Callable[[], Json]


Output = Submit | Stage | Note | Stop | Compute


class Pause:
    """The only thing a strategy's coroutine may yield: wait for the next input."""


PAUSE = Pause()


@coroutine
def _pause() -> Generator[Pause, None, None]:
    yield PAUSE


class Run:
    """A strategy's only door to the outside.

    Everything here is a function of the inputs so far, `prior` among them, so a replay sees the same. `parallelism` and
    `max_trials` may change between two awaits; such changes are recorded facts like the results.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        rng: Rng,
        *,
        parallelism: int = 1,
        max_trials: int | None = None,
        prior: Sequence[PriorPoint] = (),
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.rng = rng
        self.parallelism = parallelism
        self.max_trials = max_trials
        self.prior = tuple(prior)  # results of earlier runs, the most promising first
        self.best: Trial | None = None
        self.submitted = 0  # trials submitted so far
        self.handed = 0  # results seen so far
        self._out: dict[int, Trial] = {}
        self._inbox: deque[Trial] = deque()
        self._awaited: set[int] = set()
        self._weighted: set[int] = set()
        self._answers: deque[Json] = deque()
        self._outputs: deque[Output] = deque()

    @property
    def outstanding(self) -> int:
        """Trials submitted whose results were not handed over yet."""
        return len(self._out)

    @property
    def free(self) -> int:
        """Trials that may be submitted now without one waiting for a worker."""
        return max(0, self.parallelism - len(self._out))

    def is_out(self, number: int) -> bool:
        """Whether this trial was submitted and its result not handed over yet."""
        return number in self._out

    def submit(
        self,
        kind: TrialKind | str,
        architecture: Architecture | Mapping[str, Any] | None = None,
        *,
        params: JsonObject | None = None,
        replicate: int = 0,
    ) -> Trial:
        """Ask for one trial and go on. Its result comes out of `completed()`.

        Args:
            kind: what to do with the architecture.
            architecture: checked against the space; None for kinds that need none.
            params: arguments of the kind, JSON. They are part of the trial's identity. `checkpointOf` is the number of
                an earlier trial of this strategy, whose final weights this one begins with (`context.load_input()`).
            replicate: the same architecture with another replicate is trained from another seed; with the same one, the
                known result is reused.

        Raises:
            ArchitectureError: the architecture is not of the space; names the choice.
            StrategyError: `checkpointOf` is no number of a trial that has succeeded with weights.
        """
        self._check_source((params or {}).get(CHECKPOINT_OF))
        checked = None if architecture is None else self.space.validate(architecture)
        self.submitted += 1
        trial = Trial(
            number=self.submitted,
            kind=TrialKind(kind),
            architecture=checked,
            hash="" if checked is None else self.space.hash(checked),
            params=dict(params or {}),
            replicate=replicate,
        )
        self._out[trial.number] = trial
        self._outputs.append(Submit(trial))
        return trial

    def _check_source(self, number: Json) -> None:
        if number is None or (isinstance(number, int) and number in self._weighted):
            return
        if not isinstance(number, int) or not 1 <= number <= self.submitted:
            why = f"it must be the number of an earlier trial, 1 to {self.submitted}"
        elif number in self._out:
            why = "that trial is not finished: wait for its result first"
        else:
            why = "that trial has no weights: it did not succeed, or its evaluator hands over no final weights"
        raise StrategyError(f"{CHECKPOINT_OF} is {number!r}; {why}")

    async def completed(self) -> Trial:
        """The next finished trial in the order of completion, of those that no `trial()` or `trials()` waits for.

        Raises:
            StrategyError: nothing is out, so this would wait for ever.
        """
        while not self._inbox:
            if not self._out:
                raise StrategyError(
                    "the strategy waits for a completed trial, but has submitted none that is not finished"
                )
            await _pause()
        return self._inbox.popleft()

    async def trial(
        self,
        kind: TrialKind | str,
        architecture: Architecture | Mapping[str, Any] | None = None,
        *,
        params: JsonObject | None = None,
        replicate: int = 0,
    ) -> Trial:
        """Submit one trial and wait for its result. A failed trial is returned, not raised. Arguments as `submit`."""
        trial = self.submit(kind, architecture, params=params, replicate=replicate)
        await self._wait_for([trial])
        return trial

    async def trials(self, submissions: Iterable[Submission]) -> list[Trial]:
        """Submit several at once and wait for all: a synchronous generation. In the order of submission."""
        batch = [self.submit(s.kind, s.architecture, params=s.params, replicate=s.replicate) for s in submissions]
        await self._wait_for(batch)
        return batch

    async def steady(self, propose: Callable[[], Submission | Architecture | None]) -> AsyncIterator[Trial]:
        """Keep `parallelism` trials out and give each as it completes; follows a changed parallelism at once.

        `propose` is called whenever a trial may start. None says that there is nothing to try now: it is asked again
        after the next result, and the iteration ends when nothing is out either.
        """
        while True:
            while self.free:
                proposal = propose()
                if proposal is None:
                    break
                wanted = proposal if isinstance(proposal, Submission) else Submission(proposal)
                self.submit(wanted.kind, wanted.architecture, params=wanted.params, replicate=wanted.replicate)
            if not self._out and not self._inbox:
                return
            if not self._inbox:
                await _pause()  # a result, or a changed parallelism
            if self._inbox:
                yield self._inbox.popleft()

    async def memo(self, compute: Callable[[], Json]) -> Json:
        """The value of an expensive, pure computation.

        It runs outside the driver's event loop, its result is recorded, and a replay does not repeat it. The value
        must be JSON, and comes back as JSON gives it (tuples are lists).
        """
        self._outputs.append(Compute(compute))
        while not self._answers:
            await _pause()
        return self._answers.popleft()

    def stage(self, name: str) -> None:
        """Mark the beginning of a phase; status and ledger show it."""
        self._outputs.append(Stage(name))

    def note(self, name: str, value: JsonObject) -> None:
        """Record what the strategy found out, JSON, in place of its earlier note of that name; the summary shows it."""
        self._outputs.append(Note(name, value))

    def stop(self, trial: Trial) -> None:
        """Ask a running trial to end with what it has (state pruned). Without effect on a finished one."""
        if trial.number in self._out:
            self._outputs.append(Stop(trial.number))

    async def _wait_for(self, trials: Sequence[Trial]) -> None:
        waiting = {trial.number for trial in trials}
        self._awaited |= waiting
        while not waiting.isdisjoint(self._out):
            await _pause()
        self._awaited -= waiting

    def _hand(self, number: int, result: Result) -> None:
        trial = self._out.pop(number)
        trial.state, trial.metrics, trial.payload = result.state, dict(result.metrics), result.payload
        trial.failure, trial.message = result.failure, result.message
        if result.weights and result.state in (TrialState.SUCCEEDED, TrialState.CACHED):
            trial.weights = True
            self._weighted.add(number)
        if result.state in (TrialState.SUCCEEDED, TrialState.CACHED, TrialState.PRUNED):
            trial.values = objective_values(self.objectives, trial.metrics)
        self.handed += 1
        if trial.ok and trial.state is not TrialState.PRUNED and (self.best is None or _better(trial, self.best)):
            self.best = trial
        if number not in self._awaited:
            self._inbox.append(trial)


def _better(trial: Trial, other: Trial) -> bool:
    return (trial.fidelity, trial.score, -trial.number) > (other.fidelity, other.score, -other.number)


def strategy_run(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    seed: int,
    parallelism: int = 1,
    max_trials: int | None = None,
    prior: Sequence[PriorPoint] = (),
) -> Run:
    """The run of an experiment's seed: the strategy's randomness is a fork of its own."""
    rng = Rng(seed).fork("strategy")
    return Run(space, objectives, rng, parallelism=parallelism, max_trials=max_trials, prior=prior)
