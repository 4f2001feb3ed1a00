"""What strategies cost: ask and tell at 1,000, 10,000 and 100,000 trials, memory a trial, and a large simulated run.

    python benchmarks/strategies.py                         # all but one-shot ones, up to --limit seconds each
    python benchmarks/strategies.py --strategies random,tpe --trials 10000

Ask and tell: processor time of handing one result to the strategy until it has asked for what comes next, without model
fits (what it gives to `run.memo`), which are shown beside. Percentiles are over the last thousand trials before each
size. Models are fitted in the newest `--fits` of them; before, the strategy is given the last fit's answer again, so
that every strategy comes to every size: its proposals are known by then, and random ones take their place.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from archsearch import registry
from archsearch.errors import ArchsearchError
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture, SearchSpace
from archsearch.space.choices import Categorical
from archsearch.spec.experiment import Budget, Objective
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.simulate import Answer, Simulation
from archsearch_strategies.strategy import Compute, Execution, Result, Strategy, Submit, strategy_run

CHOICES, CANDIDATES = 12, "abcde"
WINDOW = 1000
OBJECTIVE = Objective(metric="score")
CONFIGS = {"asha": {"maxFidelity": 64}, "hyperband": {"maxFidelity": 81}}


def strategy(name: str) -> Strategy[Any]:
    """The strategy of that name with its defaults."""
    found: type[Strategy[Any]] = registry.find("archsearch.strategies", name)
    return found(found.Config.model_validate(CONFIGS.get(name, {})))


def classic() -> list[str]:
    """Names of the strategies that train architectures one by one: with others most of the cost is a supernet's."""
    names = registry.registered("archsearch.strategies")
    return [name for name in names if TrialKind.SUPERNET not in registry.find("archsearch.strategies", name).kinds]


def space() -> SearchSpace:
    return SearchSpace([Categorical(f"op{i}", tuple(CANDIDATES)) for i in range(CHOICES)])


def score(architecture: Architecture | dict[str, object]) -> float:
    """A rugged function of an architecture, 0 to 1: single decisions count, and pairs of neighbours."""
    ranks = [CANDIDATES.index(str(decision)) for decision in architecture.values()]
    pairs = sum((a * 7 + b * 3) % 5 for a, b in pairwise(ranks))
    return (sum(ranks) + pairs) / (8 * CHOICES)


@dataclass
class Times:
    """Seconds of the newest steps and fits."""

    steps: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    fits: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))


def percentile(values: deque[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ask_and_tell(name: str, sizes: list[int], limit: float, fits: int, seed: int) -> None:
    """Feed one strategy until the last size, the end of its space or the limit, and print a line at each size."""
    run = strategy_run(space(), [OBJECTIVE], seed=seed, parallelism=1, max_trials=sizes[-1])
    execution = Execution(strategy(name), run)
    asked: deque[Submit] = deque()
    times, before, start = Times(), resident(), time.perf_counter()
    done, last = 0, ""

    def due() -> bool:
        """Whether a fit is made now: the first, and those of the trials just before a size."""
        return not last or any(size - fits <= done < size for size in sizes)

    def step(feed: object) -> None:
        """Feed one input, and its computations' values, timing the strategy and the computations apart."""
        nonlocal last
        begun = time.process_time()
        feed()  # type: ignore[operator]
        spent = time.process_time() - begun
        pending = deque(execution.outputs())
        while pending:
            output = pending.popleft()
            if isinstance(output, Submit):
                asked.append(output)
            elif isinstance(output, Compute):
                if due():
                    begun = time.process_time()
                    last = json.dumps(output.compute())
                    times.fits.append(time.process_time() - begun)
                value = json.loads(last)
                begun = time.process_time()
                execution.answer(value)
                spent += time.process_time() - begun
                pending.extend(execution.outputs())
        times.steps.append(spent)

    step(execution.start)
    while asked:
        trial = asked.popleft().trial
        assert trial.architecture is not None
        result = Result(TrialState.SUCCEEDED, {"score": score(trial.architecture)})
        step(lambda trial=trial, result=result: execution.hand(trial.number, result))
        done += 1
        late = time.perf_counter() - start > limit
        if done in sizes or late or not asked:
            show(name, done, times, (resident() - before) / done, time.perf_counter() - start, late)
            times.fits.clear()
        if done >= sizes[-1] or late:
            break
    execution.close()


def show(name: str, done: int, times: Times, memory: float, elapsed: float, late: bool) -> None:
    fits = f"fit {1e3 * percentile(times.fits, 0.5):8.1f} ms ({len(times.fits)})" if times.fits else ""
    print(
        f"{name:24} {done:>7} trials  ask+tell p50 {1e3 * percentile(times.steps, 0.5):7.3f} ms  "
        f"p99 {1e3 * percentile(times.steps, 0.99):7.3f} ms  {memory / 1024:6.2f} KiB a trial  {elapsed:7.1f} s  {fits}"
        f"{'  stopped at the limit' if late else ''}",
        flush=True,
    )


def simulated(name: str, trials: int, workers: int, seed: int) -> None:
    """A whole search of many trials on many workers, and what its driver's side needs."""

    def answer(row: Row) -> Answer:
        value = score(row.architecture or {})
        return Answer({"score": value}, 60.0 + 600.0 * value)

    before, start = resident(), time.perf_counter()
    simulation = Simulation(
        strategy(name),
        space(),
        [OBJECTIVE],
        answer,
        seed=seed,
        budget=Budget(max_trials=trials, max_failed_trials=trials),
        parallelism=workers,
    )
    result = simulation.run()
    elapsed = time.perf_counter() - start
    best = result.best.metrics["score"] if result.best else 0.0
    print(
        f"simulated: {name}, {result.table.counted_finished:,} trials on {workers:,} workers, "
        f"{result.seconds / 3600:.1f} simulated hours in {elapsed:.1f} s ({1e3 * elapsed / trials:.2f} ms a trial), "
        f"{(resident() - before) / trials / 1024:.2f} KiB a trial, best {best:.3f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="", help="names, by commas; all but one-shot ones")
    parser.add_argument("--trials", type=int, default=100_000, help="the largest size")
    parser.add_argument("--workers", type=int, default=1000, help="of the simulated run")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one strategy's ask and tell")
    parser.add_argument("--fits", type=int, default=200, help="trials before each size in which models are fitted")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = [name for name in options.strategies.split(",") if name] or classic()
    sizes = [size for size in (1000, 10_000, 100_000) if size < options.trials] + [options.trials]
    print(f"python {platform.python_version()}, {os.cpu_count()} cores, {space().size():,} architectures")
    failed = 0
    for name in names:
        try:
            ask_and_tell(name, sizes, options.limit, options.fits, options.seed)
        except ArchsearchError as error:
            failed += 1
            print(f"{name}: {error}", flush=True)
    for name in [name for name in ("random", "regularized-evolution") if name in names] or names[:1]:
        simulated(name, options.trials, options.workers, options.seed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
