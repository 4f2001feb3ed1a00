"""What a run leaves behind: `summary.json`."""

from __future__ import annotations

from math import isfinite
from typing import Literal

from pydantic import Field

from archsearch.protocol import TrialState
from archsearch.spec.base import JsonObject, Model
from archsearch.spec.experiment import NASExperiment
from archsearch_strategies.driver.history import history_hash
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable

SUMMARY_KEY = "summary.json"
BEST_FOLDER = "best"


class TrialSummary(Model):
    """One of the best trials."""

    number: int
    kind: str
    state: str
    architecture: JsonObject | None = None
    hash: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    fidelity: float | None = Field(default=None, description="How far it was trained; None: in full.")
    seed: int = 0
    artifacts: dict[str, str] = Field(default_factory=dict)


class AlarmSummary(Model):
    """What a trial warned of while it ran."""

    number: int
    step: int
    message: str


class Summary(Model):
    """How a run ended, or where it stands.

    `state` is Stopped where the driver was told to stop: the same command goes on.
    """

    format_version: Literal[1] = 1
    name: str
    state: Literal["Succeeded", "Failed", "Suspended", "Stopped"]
    reason: str
    message: str = ""
    uri: str = ""
    history_hash: str = ""
    trials: dict[str, int] = Field(default_factory=dict, description="By state.")
    failures: dict[str, int] = Field(default_factory=dict, description="Failed attempts by class.")
    best: list[TrialSummary] = Field(default_factory=list, description="Best first, at most 20.")
    pareto: list[TrialSummary] = Field(
        default_factory=list, description="Of several objectives: what no other dominates."
    )
    retrained: list[TrialSummary] = Field(
        default_factory=list, description="Trials that trained one of the best again after the search; by number."
    )
    controls: list[TrialSummary] = Field(
        default_factory=list, description="Random architectures of equal size, trained as the best were; by number."
    )
    alarms: list[AlarmSummary] = Field(
        default_factory=list, description="What trials warned of, for example a collapse; the newest 20."
    )
    notes: dict[str, JsonObject] = Field(default_factory=dict, description="What the strategy found out, by name.")
    model_trial: int | None = Field(default=None, description="Number of the trial whose weights the model has.")
    model: str = Field(default="", description="Key of the exported model's folder below the run's, empty without one.")
    gpu_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    spec: JsonObject = Field(default_factory=dict)


def summarize(
    experiment: NASExperiment,
    table: TrialTable,
    *,
    state: Literal["Succeeded", "Failed", "Suspended", "Stopped"],
    reason: str,
    message: str,
    uri: str,
    now: float,
) -> Summary:
    """The summary of what the table holds at the time `now`."""
    exported = table.exported
    return Summary(
        name=experiment.metadata.name,
        state=state,
        reason=reason,
        message=message,
        uri=uri,
        history_hash=history_hash(table),
        trials={each.value: table.counts[each] for each in TrialState},
        failures={failure.value: count for failure, count in sorted(table.failures.items())},
        best=[_trial(row) for row in table.best],
        pareto=[_trial(row) for row in table.pareto] if len(table.objectives) > 1 else [],
        retrained=[_trial(row) for row in table.added.values() if row.finished and not row.control],
        controls=[_trial(row) for row in table.added.values() if row.finished and row.control],
        alarms=[AlarmSummary(number=a.number, step=a.step, message=a.message) for a in table.curves.alarms],
        notes=dict(table.notes),
        model_trial=exported.number if exported is not None and not exported.error else None,
        model=BEST_FOLDER if exported is not None and not exported.error else "",
        gpu_seconds=table.gpu_seconds,
        elapsed_seconds=table.elapsed(now),
        spec=experiment.spec.to_json(),
    )


def _trial(row: Row) -> TrialSummary:
    return TrialSummary(
        number=row.number or 0,
        kind=row.kind.value,
        state=row.state.value,
        architecture=row.architecture,
        hash=row.hash,
        metrics=dict(row.metrics),
        fidelity=row.fidelity if isfinite(row.fidelity) else None,
        seed=row.seed,
        artifacts=dict(row.artifacts),
    )
