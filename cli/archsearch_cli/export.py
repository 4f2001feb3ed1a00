"""`archsearch export`: a trial's trained network as files for others, in a folder."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from archsearch.errors import UserError
from archsearch.protocol import Assignment, StorageRef, TrialKind
from archsearch.spec import names
from archsearch.spec.experiment import ExperimentSpec
from archsearch.store import Store, open_store, split_key
from archsearch_cli.output import Format, emit
from archsearch_cli.results import read_run
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable

WEIGHTS_HINT = "retention.checkpoints says of how many of the best trials weights are kept"


def export_model(
    place: str, target: Path, *, number: int | None, formats: Sequence[str], code: Path, endpoint: str, output: Format
) -> int:
    """Write the model of a trial to `target`, a folder that is new or empty. Default: the best whose weights were kept.

    Raises:
        UserError: no such trial, its weights were not kept, or the target is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already and not an empty folder: name a new one")
    sys.path.insert(0, str(code))
    os.environ[names.ENV_CODE_DIR] = str(code)
    store = open_store(place, endpoint=endpoint)
    table = read_run(store)
    try:
        found = _written(store, table, _candidates(table, number), target, formats, endpoint)
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) or str(error).startswith("the data set "):
            raise UserError(f"{error}; --code names the folder of your modules and data (now {code})") from error
        raise
    emit([found], output, ["number", "folder", "files", "message"])
    return 0


def _candidates(table: TrialTable, number: int | None) -> list[Row]:
    """Trials whose weights may be there, the wanted one first."""
    if number is not None:
        row = table.rows.get(number)
        if row is None:
            raise UserError(f"the run has no trial {number}; it has {len(table.rows)}: `archsearch trials` lists them")
        return [row]
    exported = table.exported.number if table.exported is not None else None
    usable = [row for row in table.rows.values() if row.values]
    return sorted(
        usable, key=lambda row: (row.number == exported, row.fidelity, row.values, -(row.number or 0)), reverse=True
    )


def _with_weights(store: Store, rows: list[Row], folder: Path, opened: Callable[[str], Store]) -> Row:
    """The first trial whose weights are there, in the run or in the earlier one that they are from; downloaded."""
    from archsearch.store.checkpoint import download_checkpoint

    for row in rows:
        uri, name = split_key(row.artifacts.get("checkpoint", ""))
        if name and download_checkpoint(opened(uri) if uri else store, name, folder):
            return row
    which = f"trial {rows[0].number}" if len(rows) == 1 else "any trial"
    raise UserError(f"{store.uri} has not kept the weights of {which}; {WEIGHTS_HINT}")


def _written(
    store: Store, table: TrialTable, rows: list[Row], target: Path, formats: Sequence[str], endpoint: str
) -> dict[str, Any]:
    from archsearch.evaluate.export import run_export
    from archsearch.trial.context import TrialContext

    experiment = table.experiment
    if experiment is None:
        raise UserError(f"{store.uri} holds no run of archsearch")
    spec = ExperimentSpec.model_validate(experiment.spec)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".archsearch-export-", dir=target.parent) as folder:
        weights = Path(folder) / "weights"
        row = _with_weights(store, rows, weights, lambda uri: open_store(uri, endpoint=endpoint))
        assignment = Assignment(
            experiment=experiment.name,
            kind=TrialKind.EXPORT,
            folder=TrialKind.EXPORT.value,
            model_space=spec.model_space,
            evaluator=spec.evaluator,
            objectives=spec.objectives,
            architecture=row.architecture,
            seed=row.seed,
            params={**row.params, "checkpoint": row.artifacts["checkpoint"], "formats": list(formats)},
            storage=StorageRef(uri=store.uri, endpoint=endpoint),
        )
        context = TrialContext(assignment, Path(folder) / "trial", input_checkpoint=weights)
        payload = dict(run_export(context).payload or {})
        if target.exists():
            target.rmdir()
        shutil.move(context.artifacts, target)
    return {"number": row.number, "folder": str(target), **payload}
