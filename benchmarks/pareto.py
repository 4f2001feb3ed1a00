"""Searches for several objectives on a table: hypervolume regret of a strategy against random search.

    python benchmarks/pareto.py nasbench201_cifar10.npz --space nasbench201 --metric val200 \\
        --beside nasbench201_hardware_cifar10.npz --cost raspi4_latency --reference 50

The table's rows are answered with two columns: one to maximise, and one of the same table (or of another with the same
rows, `--beside`) to minimise. Hypervolume regret: the share of the area between the table's Pareto front and the
reference point (`--reference` of the first, a percentile of the second) that a search's own front leaves out.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsearch import registry
from archsearch.evaluate.table import Table
from archsearch.protocol import TrialState
from archsearch.spec.experiment import Budget, Goal, Objective
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.simulate import Answer, Simulation
from archsearch_strategies.simulate.bench import mann_whitney

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """Seeds of one strategy; picklable, so that processes share the seeds out."""

    table: str
    space: str
    beside: str
    metric: str
    cost: str
    strategy: str
    config: dict[str, Any]
    queries: int
    parallel: int


def columns(task: Task) -> tuple[Table, Points]:
    """The table, and (rows, 2): what is maximised, and what is minimised turned; NaN where a value is missing."""
    table = Table.load(task.table, task.space)
    if task.beside:
        with np.load(task.beside, allow_pickle=False) as file:
            names = [str(name) for name in file["columns"]] if "columns" in file else []
            cost = file["values"][:, names.index(task.cost)] if task.cost in names else file[task.cost]
    else:
        cost = table.means(task.cost)
    cost = np.where(cost > 0.0, cost, np.nan)  # HW-NAS-Bench writes what was not measured as 0 or less
    return table, np.stack([table.means(task.metric), -np.asarray(cost, np.float64)], axis=1)


def hypervolume(points: Points, reference: Points) -> float:
    """The area that two-dimensional points, larger is better, dominate above the reference point."""
    inside = points[(points > reference).all(axis=1)]
    area, reached = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((-inside[:, 1], -inside[:, 0]))]:
        if y > reached:
            area += (x - reference[0]) * (y - reached)
            reached = y
    return area


def found(task: Task, seed: int) -> Points:
    """The points of the distinct rows that one run asked for."""
    table, points = columns(task)
    seen: dict[int, None] = {}

    def answer(trial: Row) -> Answer:
        row = table.row(trial.architecture or {})
        if row is None or np.isnan(points[row]).any():
            return Answer(seconds=0.0, state=TrialState.INFEASIBLE, message="not measured")
        seen[row] = None
        return Answer({"first": float(points[row, 0]), "second": float(-points[row, 1])}, 1.0)

    strategy = registry.find("archsearch.strategies", task.strategy)
    Simulation(
        strategy(strategy.Config.model_validate(task.config)),
        table.space,
        [Objective(metric="first"), Objective(metric="second", goal=Goal.MINIMIZE)],
        answer,
        seed=seed,
        budget=Budget(max_trials=task.queries, max_failed_trials=task.queries),
        parallelism=task.parallel,
    ).run()
    return points[list(seen)]


def runs(task: Task, seeds: int, jobs: int) -> list[Points]:
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(found, [task] * seeds, range(seeds)))


def draw(path: Path, curves: dict[str, list[float]], steps: range, what: str) -> None:
    """Median hypervolume regret over queries."""
    from matplotlib import pyplot

    figure: Any
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name, medians in curves.items():
        axes.plot(list(steps), medians, label=name)
    axes.set(xlabel="queries", ylabel="median hypervolume regret", title=what, yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--space", default="", help="zoo space of a table without candidates")
    parser.add_argument("--beside", default="", help="an npz with the same rows that has the second column")
    parser.add_argument("--metric", required=True, help="column to maximise")
    parser.add_argument("--cost", required=True, help="columns to minimise, by commas: one comparison each")
    parser.add_argument("--reference", type=float, help="of the metric [the table's 1st percentile]")
    parser.add_argument("--percentile", type=float, default=99.0, help="of the cost")
    parser.add_argument("--strategy", default="nsga2")
    parser.add_argument("--config", default="{}", help="the strategy's, as JSON")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--parallel", type=int, default=1, help="trials at one time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a PNG to write: regret over queries, of the last of --cost")
    options = parser.parse_args()
    for cost in options.cost.split(","):
        fields = (str(options.table), options.space, options.beside, options.metric, cost)
        both = [
            Task(*fields, name, config, options.queries, options.parallel)
            for name, config in ((options.strategy, json.loads(options.config)), ("random", {}))
        ]
        points = columns(both[0])[1]
        points = points[~np.isnan(points).any(axis=1)]
        first = np.percentile(points[:, 0], 1.0) if options.reference is None else options.reference
        reference = np.array([first, np.percentile(points[:, 1], 100.0 - options.percentile)])
        best = hypervolume(points, reference)
        seen = {task.strategy: runs(task, options.seeds, options.jobs) for task in both}
        steps = range(options.queries % 5 + 5, options.queries + 1, 5)
        regrets = {
            name: [[1.0 - hypervolume(each[:step], reference) / best for each in found] for step in steps]
            for name, found in seen.items()
        }
        ours, theirs = (regrets[task.strategy][-1] for task in both)
        p = mann_whitney([-each for each in ours], [-each for each in theirs])
        print(
            f"{options.metric} against {cost}: median hypervolume regret {median(ours):.3%} with {options.strategy}, "
            f"{median(theirs):.3%} with random, ratio {median(ours) / median(theirs):.2f}, p = {p:.1e}",
            flush=True,
        )
        if options.out:
            curves = {name: [median(each) for each in steps_] for name, steps_ in regrets.items()}
            draw(options.out, curves, steps, f"{options.metric} against {cost}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
