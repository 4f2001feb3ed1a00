"""`archsearch run`: the experiment on this machine, from file to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archsearch.spec import reasons
from archsearch.spec.experiment import NASExperiment
from archsearch_cli.display import display
from archsearch_cli.output import Format, emit, note
from archsearch_cli.validate import require_valid

if TYPE_CHECKING:
    from archsearch_strategies.driver import Summary
    from archsearch_strategies.driver.summary import TrialSummary

RUNS = Path("archsearch-runs")


def run_file(file: Path, storage: str, overrides: Sequence[str], output: Format) -> int:
    """Run a manifest to its end; the code is 0 done, 1 failed, 2 bad input, 130 interrupted."""
    experiment = require_valid(file, overrides)
    place = storage or str(RUNS / experiment.metadata.name)
    if experiment.spec.storage.uri and not storage:
        note(f"spec.storage.uri is the cluster's; this run lies in {place} (--storage chooses another place)")
    from archsearch_strategies.driver.local import run_local

    with display(experiment.metadata.name, experiment.spec) as shown:
        summary = asyncio.run(run_local(experiment, uri=place, code_dir=file.absolute().parent, listener=shown.update))
    _conclude(summary, experiment, place, output)
    return _exit_code(summary)


def _exit_code(summary: Summary) -> int:
    if summary.state == "Stopped":
        return 130
    if summary.state == "Failed":
        return 2 if summary.reason == reasons.SPEC_INVALID else 1
    return 0


def _conclude(summary: Summary, experiment: NASExperiment, place: str, output: Format) -> None:
    several = len(experiment.spec.objectives) > 1
    ranked = summary.pareto if several else summary.best
    metrics = [objective.metric for objective in experiment.spec.objectives]
    if output in (Format.JSON, Format.YAML):
        emit(summary.to_json(), output)
    elif ranked or output is Format.CSV:
        rows = [trial.to_json() for trial in ranked[: None if several else 5]]
        emit(rows, output, ["number", *(f"metrics.{name}" for name in metrics), "architecture"])
    note(f"{summary.state}: {summary.reason}" + (f" — {summary.message}" if summary.message else ""))
    counted = ", ".join(f"{count} {state}" for state, count in summary.trials.items() if count)
    note(f"trials:  {counted or 'none'}")
    note(f"run:     {place}")
    if summary.model:
        trust = "" if experiment.spec.model_space.zoo is not None else ", trust_code=True"
        note(f"model:   {place.rstrip('/')}/{summary.model}   (archsearch.load({place!r}{trust}) in Python)")
        if told := _trained(summary, metrics):
            note(f"         {told}")
    note(f"more:    archsearch trials {place}; archsearch best {place}")
    if summary.reason == reasons.TOO_MANY_FAILED_TRIALS:
        note("Once corrected: raise spec.budget.maxFailedTrials to go on, or remove the run to begin anew.")
    if summary.state in ("Stopped", "Suspended"):
        note("The same command goes on where this one stopped.")


def _trained(summary: Summary, metrics: Sequence[str]) -> str:
    """What the model's trial reached, and random architectures of its size beside it."""

    def told(trial: TrialSummary) -> str:
        return ", ".join(f"{name} {trial.metrics[name]:.4g}" for name in metrics if name in trial.metrics)

    trials = [*summary.retrained, *summary.best, *summary.pareto]
    own = next((trial for trial in trials if trial.number == summary.model_trial), None)
    if own is None:
        return ""
    how = ", trained after the search" if own in summary.retrained else ""
    random = [f"trial {trial.number}: {told(trial)}" for trial in summary.controls if told(trial)]
    beside = f"; random architectures of its size: {'; '.join(random)}" if random else ""
    return f"of trial {own.number}{how}: {told(own)}{beside}"
