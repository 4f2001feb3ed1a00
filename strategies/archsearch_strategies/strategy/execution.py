"""Strategies step by step: for a driver or a simulator that feeds in results, and by ask and tell."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from archsearch.errors import UserError
from archsearch.protocol import TrialState
from archsearch.space import Architecture, SearchSpace
from archsearch.spec.experiment import Objective
from archsearch_strategies.strategy.base import Strategy
from archsearch_strategies.strategy.run import PAUSE, Compute, Output, Run, Submit, strategy_run
from archsearch_strategies.strategy.trial import Json, Result, StrategyError, Trial, prior_points


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
        if yielded is not PAUSE:
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
