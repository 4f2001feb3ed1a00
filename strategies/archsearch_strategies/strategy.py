"""What a strategy is and what it sees: a coroutine over trials that awaits only its `Run`.

The coroutine is driven step by step by an `Execution`, without an event loop: it runs until it waits for something
from outside (a result, a changed parallelism, an expensive computation) and goes on when that is fed in. So the same
strategy serves the durable driver, a simulator and a notebook (`AskTell`), and the same inputs in the same order
always give the same outputs.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, ClassVar, Generic, TypeVar

from archsearch.errors import ArchsearchError, UserError
from archsearch.protocol import FailureClass, TrialKind, TrialState, fidelity_of
from archsearch.space import Architecture, Rng, SearchSpace
from archsearch.spec.base import JsonObject, Model
from archsearch.spec.experiment import Goal, Objective

Json = Any
C = TypeVar("C", bound="StrategyConfig")
CHECKPOINT_OF = "checkpointOf"


class StrategyError(ArchsearchError):
    """The strategy's own code is at fault: it raised an exception, or awaited something else than its run."""


class StrategyConfig(Model):
    """Base of every strategy's options. Names are camelCase in a manifest; unknown ones are refused."""


class Strategy(Generic[C]):
    """An algorithm that chooses architectures.

    A subclass has a `Config`, says what it can take, and implements `search`. It keeps no state on disk: after a
    restart `search` is started again and sees the same results in the same order. It awaits nothing but `run.*`,
    draws randomness from `run.rng` alone, and looks at no clock.
    """

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    several_objectives: ClassVar[bool] = False  # it makes a Pareto search of several
    reuses_weights: ClassVar[bool] = False  # its trials may begin with any earlier one's weights: all are kept
    retrains: ClassVar[int] = 0  # how many of the best are trained again where the manifest does not say
    controls: ClassVar[int] = 0  # how many random architectures of equal size are trained beside them
    kinds: ClassVar[tuple[TrialKind, ...]] = (TrialKind.EVALUATE,)  # the trial kinds that it submits
    multi_fidelity: ClassVar[bool] = False  # reuses them only to train an architecture further: once, then they may go

    def __init__(self, config: C) -> None:
        self.config = config
        self.fidelities: Sequence[int] = ()  # what the evaluator offers, ascending; empty where it does not say

    @property
    def highest_fidelity(self) -> float | None:
        """The most that a trial is trained; None where trials name no fidelity. A target counts only there."""
        return None

    def check_fidelities(self) -> list[str]:
        """Why this strategy cannot work with `fidelities`: one sentence each."""
        return []

    def check(self, space: SearchSpace) -> list[str]:
        """Why this strategy cannot search `space`: one sentence each. Called before the first trial."""
        return []

    async def search(self, run: Run) -> None:
        """The algorithm. Returns when it has nothing more to try; the budget is the driver's business."""
        raise NotImplementedError


@dataclass(slots=True, eq=False)
class Trial:
    """One trial as a strategy sees it: pending when submitted, with its result once it was handed over."""

    number: int
    kind: TrialKind
    architecture: Architecture | None
    hash: str  # canonical hash of the architecture, "" without one
    params: JsonObject
    replicate: int
    state: TrialState = TrialState.PENDING
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: tuple[
        float, ...
    ] = ()  # the objectives' values, turned so that larger is better; empty without a usable result
    failure: FailureClass | None = None
    message: str = ""
    payload: Json = None
    weights: bool = False  # it has final weights, which later trials may begin with (`checkpointOf`)

    @property
    def ok(self) -> bool:
        """It has objective values: it succeeded, or its result was known, or it was stopped early with a result."""
        return bool(self.values)

    @property
    def fidelity(self) -> float:
        """How far it was trained, in the evaluator's unit; infinity where it named none: in full."""
        return fidelity_of(self.params)

    @property
    def score(self) -> float:
        """The first objective, larger is better; minus infinity without a result."""
        return self.values[0] if self.values else float("-inf")


@dataclass(frozen=True)
class PriorPoint:
    """A result of an earlier run of the same space.

    Values of one group are comparable with each other, those of group 0 with this run's own results too; the others
    were measured otherwise (fewer epochs, other data), so that only their order tells something.
    """

    architecture: Architecture
    hash: str
    metrics: Mapping[str, float]
    values: tuple[float, ...]  # of this run's objectives, larger is better
    group: int = 0

    @property
    def score(self) -> float:
        """The first objective, larger is better."""
        return self.values[0]


def prior_points(
    space: SearchSpace,
    objectives: Sequence[Objective],
    results: Iterable[tuple[Architecture | Mapping[str, Any], Mapping[str, float]]],
) -> tuple[PriorPoint, ...]:
    """Comparable results (architecture, metrics) as prior points, best first.

    Raises:
        ArchitectureError: an architecture is not of the space.
        ValueError: a result lacks the metric of an objective.
    """
    points = []
    for raw, metrics in results:
        values = objective_values(objectives, metrics)
        if not values:
            wanted = ", ".join(objective.metric for objective in objectives)
            raise ValueError(f"a prior result has the metrics {', '.join(sorted(metrics))}, and needs {wanted}")
        architecture = space.validate(raw)
        points.append(PriorPoint(architecture, space.hash(architecture), dict(metrics), values))
    return tuple(sorted(points, key=lambda point: -point.score))


@dataclass(frozen=True)
class Result:
    """How a trial ended, as it is fed to an execution."""

    state: TrialState
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: FailureClass | None = None
    message: str = ""
    payload: Json = None
    weights: bool = True  # of a success: whether its final weights were kept


@dataclass(frozen=True)
class Submission:
    """What a strategy wants tried."""

    architecture: Architecture | None = None
    kind: TrialKind = TrialKind.EVALUATE
    params: JsonObject = field(default_factory=dict)
    replicate: int = 0


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


class _Pause:
    """The only thing a strategy's coroutine may yield: wait for the next input."""


_PAUSE = _Pause()


@coroutine
def _pause() -> Generator[_Pause, None, None]:
    yield _PAUSE


def objective_values(objectives: Sequence[Objective], metrics: Mapping[str, float]) -> tuple[float, ...]:
    """The objectives' values, turned so that larger is better; empty when one is missing."""
    if any(objective.metric not in metrics for objective in objectives):
        return ()
    return tuple(
        metrics[objective.metric] if objective.goal is Goal.MAXIMIZE else -metrics[objective.metric]
        for objective in objectives
    )


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


class Execution:
    """Drives one strategy. Feed inputs; after each, take the outputs.

    Raises (from every feeding method):
        StrategyError: the strategy raised something, or awaited something else than its run.
    """

    def __init__(self, strategy: Strategy[Any], run: Run) -> None:
        self.run = run
        self.finished = False
        self._coroutine: Coroutine[Any, None, None] = strategy.search(run)
        self._name = type(strategy).__name__

    def start(self) -> None:
        """Run up to the first wait."""
        self._resume()

    def hand(self, number: int, result: Result) -> None:
        """Give the result of a submitted trial to the strategy."""
        self.run._hand(number, result)
        self._resume()

    def answer(self, value: Json) -> None:
        """Give the value of the oldest `Compute` that has none yet."""
        self.run._answers.append(value)
        self._resume()

    def change(self, *, parallelism: int, max_trials: int | None) -> None:
        """Tell of changed facts."""
        self.run.parallelism, self.run.max_trials = parallelism, max_trials
        self._resume()

    def outputs(self) -> list[Output]:
        """What the strategy asked for since the last call, in order."""
        taken = list(self.run._outputs)
        self.run._outputs.clear()
        return taken

    def close(self) -> None:
        """Drop the coroutine; it sees GeneratorExit where it waits."""
        with _no_event_loop():
            self._coroutine.close()

    def _resume(self) -> None:
        if self.finished:
            return
        try:
            with _no_event_loop():
                yielded = self._coroutine.send(None)
        except StopIteration:
            self.finished = True
            return
        except (StrategyError, UserError):
            raise
        except Exception as error:
            raise StrategyError(f"the strategy {self._name} raised {type(error).__name__}: {error}") from error
        if yielded is not _PAUSE:
            self.close()
            raise StrategyError(
                f"the strategy {self._name} awaited {type(yielded).__name__}; a strategy awaits only its run "
                "(run.trial, run.trials, run.completed, run.steady, run.memo)"
            )


@contextmanager
def _no_event_loop() -> Iterator[None]:
    """Async generators of the strategy are its own: an event loop that runs here must not close them its way."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)


class AskTell:
    """Any strategy by ask and tell, for a notebook or a loop of one's own.

    >>> loop = AskTell(RegularizedEvolution(config), space, [Objective(metric="accuracy")], seed=0)
    >>> while (trial := loop.ask()) is not None:
    ...     loop.tell(trial, {"accuracy": train(trial.architecture)})

    Args:
        prior: results that are known already, (architecture, metrics) each; see `prior_points` for what it raises.
    """

    def __init__(
        self,
        strategy: Strategy[Any],
        space: SearchSpace,
        objectives: Sequence[Objective],
        *,
        seed: int = 0,
        parallelism: int = 1,
        prior: Iterable[tuple[Architecture | Mapping[str, Any], Mapping[str, float]]] = (),
    ) -> None:
        points = prior_points(space, objectives, prior)
        self.run = strategy_run(space, objectives, seed=seed, parallelism=parallelism, prior=points)
        self._execution = Execution(strategy, self.run)
        self._asked: deque[Trial] = deque()
        self._execution.start()
        self._take()

    @property
    def best(self) -> Trial | None:
        return self.run.best

    def ask(self) -> Trial | None:
        """The next trial to do; None when the strategy waits for results, or has nothing more to try."""
        return self._asked.popleft() if self._asked else None

    def tell(
        self,
        trial: Trial,
        metrics: Mapping[str, float] | None = None,
        *,
        state: TrialState | None = None,
        payload: Json = None,
        message: str = "",
    ) -> None:
        """The trial's metrics; None says that it failed (or give another final state)."""
        if state is None:
            state = TrialState.FAILED if metrics is None else TrialState.SUCCEEDED
        self._execution.hand(trial.number, Result(state, metrics or {}, message=message, payload=payload))
        self._take()

    def _take(self) -> None:
        pending = deque(self._execution.outputs())
        while pending:
            output = pending.popleft()
            if isinstance(output, Submit):
                self._asked.append(output.trial)
            elif isinstance(output, Compute):
                self._execution.answer(json.loads(json.dumps(output.compute(), allow_nan=False)))
                pending.extend(self._execution.outputs())


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
