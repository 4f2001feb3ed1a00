"""`archsearch bench`: strategies against a table of measured architectures."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from archsearch import registry
from archsearch.errors import ArchsearchError, UserError
from archsearch.evaluate.nas_bench_graph import graph_table
from archsearch.evaluate.table import Cost, Table, find_space, write_table
from archsearch.spec.base import JsonObject
from archsearch.spec.explain import suggest
from archsearch.spec.manifest import parse_yaml
from archsearch.spec.problems import SpecError
from archsearch_cli.output import Format, emit, note
from archsearch_strategies.checks import check_config
from archsearch_strategies.simulate.bench import Bench, Trace, run_seed, spread, summarize, values

BASELINE = "random"
NAS_BENCH_GRAPH = "nas-bench-graph"
_GRID = 200  # points of the curves over time

Configs = Mapping[str, JsonObject]
Traces = Mapping[str, list[Trace]]


def run_bench(
    bench: Bench,
    strategies: Sequence[str],
    settings: Sequence[str],
    *,
    seeds: int,
    jobs: int,
    output: Format,
    folder: Path | None,
) -> int:
    """Run every strategy with the seeds 0 … seeds − 1, and write what came of it.

    Raises:
        UserError: the table, a strategy or an option cannot be used.
        ArchsearchError: a strategy failed.
    """
    table = bench.load()
    configs = read_configs(strategies, settings)
    check_strategies(configs, table, bench.levels)
    ran: Configs = configs if BASELINE in configs else {**configs, BASELINE: {}}
    traces = run_all(bench, ran, seeds, jobs)
    against = traces[BASELINE]
    results = {name: summarize(bench, table, traces[name], None if name == BASELINE else against) for name in configs}
    if output in (Format.JSON, Format.YAML):
        emit({"strategies": results}, output)
    else:
        emit([_line(name, result) for name, result in results.items()], output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_curves(bench, table, {name: traces[name] for name in configs}, folder)
    return 0


def export_table(source: str, name: str, path: Path) -> int:
    """Write a table that a package brings as an npz.

    Raises:
        UserError: no such source or table, or the file cannot be written.
    """
    if source != NAS_BENCH_GRAPH:
        raise UserError(f"no table source is named {source!r}; {suggest(source, [NAS_BENCH_GRAPH])}")
    arrays = graph_table(name)
    write_table(arrays, path)
    columns = [column for column in arrays if column not in ("ops", "candidates", "choices")]
    note(f"{path}: {len(arrays['ops']):,} rows; columns {', '.join(columns)}")
    return 0


def bench_of(
    table: Path,
    *,
    metric: str,
    test_metric: str,
    cost: str,
    space: str,
    fidelities: Sequence[str],
    continued: bool,
    minimize: bool,
    queries: int | None,
    cost_budget: float | None,
    parallel: int,
    proxies: Path | None = None,
) -> Bench:
    """A bench from the options of the command line.

    Raises:
        UserError: they do not fit together.
    """
    if queries is None and cost_budget is None:
        raise UserError("a bench needs an end: give --queries Q, --cost-budget S, or both")
    if cost_budget is not None and not cost:
        raise UserError("--cost-budget counts the seconds of --cost: name their column, COLUMN or COLUMN*FACTOR")
    if cost_budget is not None and not 1 <= cost_budget < 2**31:
        raise UserError(f"--cost-budget is a number of seconds from 1 on, not {cost_budget:g}")
    parsed = dict(_fidelity(text) for text in fidelities)
    for text in filter(None, [cost, *(each for _, each in parsed.values())]):
        try:
            Cost.parse(text)
        except ValueError as error:
            raise UserError(str(error)) from None
    return Bench(
        table=str(table.absolute()),
        metric=metric,
        space=json.dumps(find_space(space).to_json()) if space else None,
        test_metric=test_metric,
        cost=cost,
        fidelities=parsed,
        continued=continued,
        minimize=minimize,
        queries=queries,
        cost_budget=None if cost_budget is None else math.ceil(cost_budget),
        parallel=parallel,
        proxies=str(proxies.absolute()) if proxies is not None else "",
    )


def _fidelity(text: str) -> tuple[str, tuple[str, str]]:
    name, equals, rest = text.partition("=")
    metric, _, cost = rest.partition(":")
    if not (name and equals and metric):
        raise UserError(f"--fidelity {text!r}: write NAME=COLUMN:COST, for example 12=val12:train_seconds*0.06")
    return name, (metric, cost)


def read_configs(strategies: Sequence[str], settings: Sequence[str]) -> dict[str, JsonObject]:
    """Each strategy's configuration, from NAME.key=value.

    Raises:
        UserError: a setting has another form, or is for none of the strategies.
    """
    configs: dict[str, JsonObject] = {name: {} for name in strategies}
    if not configs:
        raise UserError("--strategies names none; for example --strategies random,regularized-evolution")
    for setting in settings:
        path, equals, text = setting.partition("=")
        name, *keys = path.split(".")
        if not equals or not all(keys) or not keys:
            raise UserError(f"--config {setting!r}: write STRATEGY.option=value, for example {strategies[0]}.sample=5")
        if name not in configs:
            raise UserError(f"--config {setting!r} is for {name!r}, which is not among --strategies")
        place = configs[name]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = parse_yaml(text, f"--config {path}")
    return configs


def check_strategies(configs: Configs, table: Table, levels: Sequence[int]) -> None:
    """Raise UserError for a strategy that is not there, has other options, or cannot search the table's space."""
    known = registry.registered("archsearch.strategies")
    for name, config in configs.items():
        if name not in known:
            raise UserError(f"no strategy is named {name!r}; {suggest(name, known)}")
        found = registry.find("archsearch.strategies", name)
        model: type[BaseModel] = found.Config
        parsed, problems = check_config(model, config, f"--config {name}", f"strategy {name!r}")
        if problems:
            raise SpecError(problems)
        strategy = found(parsed)
        strategy.fidelities = levels
        if faults := [*strategy.check_fidelities(), *strategy.check(table.space)]:
            raise UserError(f"strategy {name!r} cannot search the table's space: {faults[0]}")


# --- running


def run_all(bench: Bench, configs: Configs, seeds: int, jobs: int) -> dict[str, list[Trace]]:
    """All strategies with all seeds, spread over processes; by name in the order of the seeds.

    Raises:
        ArchsearchError: the first that went wrong, with its strategy and seed.
    """
    tasks = [(bench, name, dict(config), seed) for name, config in configs.items() for seed in range(seeds)]
    traces: dict[str, list[Trace]] = {name: [] for name in configs}
    start = time.monotonic()
    for (_, name, _, seed), found in zip(tasks, _results(tasks, min(jobs, len(tasks))), strict=True):
        if isinstance(found, str):
            raise ArchsearchError(f"strategy {name!r}, seed {seed}: {found}")
        traces[name].append(found)
        if len(traces[name]) == seeds:
            note(f"{name}: {seeds} seeds, {time.monotonic() - start:.1f} s")
    return traces


def _results(tasks: Sequence[tuple[Bench, str, JsonObject, int]], jobs: int) -> Iterator[Trace | str]:
    if jobs <= 1:
        yield from map(_task, tasks)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # the seeds run side by side already
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_task, tasks)
        except BrokenProcessPool as error:
            raise ArchsearchError("a process of the bench was killed (memory?); fewer at a time: --jobs 1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _task(task: tuple[Bench, str, JsonObject, int]) -> Trace | str:
    """A trace, or what went wrong: an exception of ours does not survive the way between processes."""
    try:
        return run_seed(*task)
    except ArchsearchError as error:
        return str(error)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- results


def _line(name: str, result: JsonObject) -> JsonObject:
    """A strategy as one row of a table."""
    line: JsonObject = {"strategy": name}
    for mark, found in result["at"].items():
        line[f"@{mark}"] = _plus_minus(found["metric"])
        if "test" in found:
            line[f"test@{mark}"] = _plus_minus(found["test"])
    reached = result["queriesToOptimum"]
    p = result["p"]
    return line | {
        "queries to optimum": f"{reached['mean']:.1f}",
        "median": f"{reached['median']:g}",
        "share": f"{reached['share']:.0%}",
        "p": "" if p is None else f"{p:.2g}",
    }


def _plus_minus(pair: Sequence[float | None]) -> str:
    mean, deviation = pair
    return "" if mean is None else f"{mean:.3f} ± {deviation:.3f}"


def write_curves(bench: Bench, table: Table, traces: Traces, folder: Path) -> None:
    """regret.csv over queries, regret_seconds.csv over simulated seconds where queries cost some, and regret.png."""
    by_query = list(_curves(bench, table, traces))
    _write_csv(folder / "regret.csv", by_query)
    by_time = list(_curves_in_time(bench, table, traces)) if bench.cost else []
    if by_time:
        _write_csv(folder / "regret_seconds.csv", by_time)
    timed = bool(by_time) and bench.queries is None
    axis = "seconds" if timed else "queries"
    _draw(folder / "regret.png", by_time if timed else by_query, axis, bench.metric)


def _curves(bench: Bench, table: Table, traces: Traces) -> Iterator[JsonObject]:
    for name, runs in traces.items():
        most = bench.queries or max((len(trace.chosen) for trace in runs), default=0)
        for query in range(1, most + 1):
            yield {"strategy": name, "queries": query, **_point(bench, table, runs, [query] * len(runs))}


def _curves_in_time(bench: Bench, table: Table, traces: Traces) -> Iterator[JsonObject]:
    last = max((trace.seconds[-1] for runs in traces.values() for trace in runs if trace.seconds), default=0.0)
    end = bench.cost_budget or last
    for name, runs in traces.items():
        for step in range(1, _GRID + 1):
            now = end * step / _GRID
            done = [sum(seconds <= now for seconds in trace.seconds) for trace in runs]
            if all(done):
                yield {"strategy": name, "seconds": now, **_point(bench, table, runs, done)}


def _point(bench: Bench, table: Table, runs: Sequence[Trace], queries: Sequence[int]) -> JsonObject:
    """Mean and standard deviation over the seeds of the metric, its regret and the test metric."""
    row: JsonObject = {}
    chosen = [values(bench, table, [trace], query, bench.metric)[0] for trace, query in zip(runs, queries, strict=True)]
    optimum = bench.optimum(table)
    row["metric"], row["metricSd"] = spread(chosen)
    row["regret"], row["regretSd"] = spread([None if value is None else abs(optimum - value) for value in chosen])
    if bench.test_metric:
        tests = [
            values(bench, table, [trace], query, bench.test_metric)[0]
            for trace, query in zip(runs, queries, strict=True)
        ]
        row["test"], row["testSd"] = spread(tests)
    return row


def _write_csv(path: Path, rows: Sequence[JsonObject]) -> None:
    partial = path.with_suffix(".csv.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _draw(path: Path, rows: Sequence[JsonObject], axis: str, metric: str) -> None:
    try:
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot
    except ImportError:
        note(f"no {path.name}: a picture needs matplotlib, pip install 'archsearch[bench]'")
        return
    figure: Any
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name in dict.fromkeys(row["strategy"] for row in rows):
        points = [row for row in rows if row["strategy"] == name and row["regret"] is not None]
        x = [row[axis] for row in points]
        mean = [row["regret"] for row in points]
        (line,) = axes.plot(x, mean, label=name)
        low = [max(row["regret"] - row["regretSd"], 0.0) for row in points]
        high = [row["regret"] + row["regretSd"] for row in points]
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    positive = [row["regret"] for row in rows if row["regret"]]
    if positive:
        axes.set_yscale("symlog", linthresh=max(min(positive), 1e-9))
    axes.set_ylim(bottom=0.0)
    axes.set(xlabel=f"{axis} (simulated)" if axis == "seconds" else axis, ylabel=f"regret in {metric}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
