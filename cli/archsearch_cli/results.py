"""`archsearch trials` and `archsearch best`: what a run's ledger holds."""

from __future__ import annotations

from math import isfinite

from archsearch.errors import UserError
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch.store import Store, open_store
from archsearch_cli.output import Format, emit
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger import read_ledger


def show_trials(place: str, endpoint: str, output: Format) -> int:
    """List every trial by number."""
    table = read_run(open_store(place, endpoint=endpoint))
    rows = [trial_row(table.rows[number]) for number in sorted(table.rows)]
    if output is Format.TABLE:
        rows = [{**row, "kind": f"{row['kind']} (control)"} if row.get("control") else row for row in rows]
    metrics = sorted({name for row in rows for name in row["metrics"]})
    first = [objective.metric for objective in table.objectives]
    shown = [*first, *(name for name in metrics if name not in first)][:6]
    metric_columns = [f"metrics.{name}" for name in shown]
    emit(rows, output, ["number", "kind", "state", *_fidelity(rows), *metric_columns, "seconds", "message"])
    return 0


def show_best(place: str, endpoint: str, top: int, output: Format) -> int:
    """List the best trials, best first."""
    rows = best_rows(read_run(open_store(place, endpoint=endpoint)), top)
    emit(rows, output, ["number", *_fidelity(rows), *_objective_columns(rows), "architecture"])
    return 0


def _fidelity(rows: list[JsonObject]) -> list[str]:
    """A column for it, where the trials have any."""
    return ["fidelity"] if any(row["fidelity"] is not None for row in rows) else []


def read_run(store: Store) -> TrialTable:
    """The table of a run's trials from its ledger.

    Raises:
        UserError: there is no run.
    """
    records = read_ledger(store)
    first = next(records, None)
    if first is None or first.get("type") != "experiment":
        raise UserError(f"{store.uri} holds no run of archsearch: give the folder that `archsearch run` has named")
    kept = [first, *records]
    spec = next(record for record in reversed(kept) if record.get("type") == "experiment")["spec"]  # as it began
    table = TrialTable(ExperimentSpec.model_validate(spec).objectives)
    table.replay(kept)
    return table


def trial_row(row: Row) -> JsonObject:
    """One trial as `trials -o json` shows it."""
    return {
        "number": row.number,
        "kind": row.kind.value,
        "state": row.state.value,
        "metrics": dict(row.metrics),
        "architecture": row.architecture,
        "hash": row.hash,
        "attempts": row.attempts,
        "seconds": round(row.resources.wall_seconds, 3),
        "failure": row.failure.value if row.failure else None,
        "message": row.message,
        "resources": row.resources.to_json(),
        "artifacts": dict(row.artifacts),
        "source": row.source,
        "sourceUri": row.source_uri,
        "points": [point.to_json() for point in row.points],
        "replicate": row.replicate,
        "fidelity": row.fidelity if isfinite(row.fidelity) else None,
        "seed": row.seed,
        **({"control": True} if row.control else {}),
    }


def best_rows(table: TrialTable, top: int) -> list[JsonObject]:
    """The best trials, best first: by fidelity and objective, or of several those that no other trial beats in all."""
    usable = [row for row in table.rows.values() if row.finished and row.values]
    candidates = table.pareto if len(table.objectives) > 1 else usable
    ordered = sorted(candidates, key=lambda row: (-row.fidelity, *(-value for value in row.values), row.number or 0))
    furthest: dict[tuple[str, int], float] = {}  # of a promoted architecture only the trial of the highest fidelity
    for row in ordered:
        furthest.setdefault((row.hash, row.replicate), row.fidelity)
    rows = []
    for row in [row for row in ordered if row.fidelity == furthest[row.hash, row.replicate]][:top]:
        values = {objective.metric: row.metrics[objective.metric] for objective in table.objectives}
        rows.append({**trial_row(row), "objectives": values})
    return rows


def _objective_columns(rows: list[JsonObject]) -> list[str]:
    return [f"objectives.{name}" for name in rows[0]["objectives"]] if rows else []
