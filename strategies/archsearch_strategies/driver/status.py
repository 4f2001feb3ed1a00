"""A bounded picture of a run for status, display and dashboard: its size does not grow with the number of trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice

from archsearch.protocol import TrialState
from archsearch.spec.base import JsonObject
from archsearch.spec.status import Alarm, BestTrial, RunningTrial, SearchStatus, TrialCounts, Verdict, Waiting
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable

BEST_SHOWN = 5
RUNNING_SHOWN = 5
LOOKED_AT = 1000  # newest trials, for running ones: a status is made every second, of any number of trials
PARETO_SHOWN = 20
METRICS_SHOWN = 16
ARCHITECTURE_BYTES = 1536  # a larger one is left out: it is in the ledger
MESSAGE_LENGTH = 2048
ALARM_LENGTH = 512
LARGEST = 2**63 - 1  # of an integer in a custom resource


def search_status(
    table: TrialTable,
    *,
    max_trials: int,
    verdict: Verdict,
    waiting: Waiting | None = None,
    eta_seconds: float | None = None,
    now: float,
) -> SearchStatus:
    """The status of a run at the time `now` (seconds since the epoch), below 64 KiB whatever the run."""
    return SearchStatus(
        stage=table.stage[:256],
        progress=f"{table.counted_finished}/{max_trials}",
        trials=counts(table),
        running=running(table),
        best=[best_trial(row, table.objectives[0].metric) for row in table.best[:BEST_SHOWN]],
        pareto=[best_trial(row, table.objectives[0].metric) for row in table.pareto[:PARETO_SHOWN]]
        if len(table.objectives) > 1
        else [],
        failures={failure.value: number for failure, number in sorted(table.failures.items())},
        alarms=[
            Alarm(number=each.number, step=min(max(0, each.step), LARGEST), message=each.message[:ALARM_LENGTH])
            for each in table.curves.alarms
        ],
        verdict=verdict.model_copy(update={"message": verdict.message[:MESSAGE_LENGTH]}),
        waiting=waiting and waiting.model_copy(update={"message": waiting.message[:MESSAGE_LENGTH]}),
        eta="" if eta_seconds is None else duration(eta_seconds),
        gpu_seconds=round(table.gpu_seconds),
        updated_time=timestamp(now),
    )


def counts(table: TrialTable) -> TrialCounts:
    return TrialCounts(**{state.value: table.counts[state] for state in TrialState})


def running(table: TrialTable) -> list[RunningTrial]:
    """The newest running trials that reported a step, the newest last."""
    under_way = (row for row in islice(reversed(table.rows.values()), LOOKED_AT) if row.state is TrialState.RUNNING)
    found = list(islice((row for row in under_way if row.points), RUNNING_SHOWN))
    return [
        RunningTrial(
            number=row.number or 0,
            kind=row.kind.value,
            step=min(max(0, row.points[-1].step), LARGEST),
            metrics=_shown(row.points[-1].metrics),
        )
        for row in reversed(found)
    ]


def _shown(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name[:63]: repr(value) for name, value in islice(metrics.items(), METRICS_SHOWN)}


def best_trial(row: Row, metric: str) -> BestTrial:
    """One of the best, its values as strings, what is too large left out."""
    architecture: JsonObject = row.architecture or {}
    if len(json.dumps(architecture)) > ARCHITECTURE_BYTES:
        architecture = {}
    value = repr(row.metrics[metric])
    return BestTrial(number=row.number or 0, value=value, metrics=_shown(row.metrics), architecture=architecture)


def duration(seconds: float) -> str:
    """2 h 5 min, 3 min 20 s, 8 s."""
    whole = round(max(0.0, seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def timestamp(now: float) -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
