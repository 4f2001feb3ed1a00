"""Whether a ledger is this experiment's: the parts of the spec that may not change, by digest."""

from __future__ import annotations

import json
from typing import Any

from archsearch.errors import UserError
from archsearch.space import digest
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import MUTABLE_FIELDS, ExperimentSpec, NASExperiment
from archsearch_strategies.driver import records as r

# Where a run lies is no part of what it is: a folder may be moved, a bucket may get another endpoint.
_PLACE = ("storage", "resumeFrom")
_SHOWN = 8


def frozen_part(spec: ExperimentSpec | JsonObject) -> JsonObject:
    """The spec's JSON without what may change."""
    document = spec.to_json() if isinstance(spec, ExperimentSpec) else spec
    return {name: value for name, value in document.items() if name not in (*MUTABLE_FIELDS, *_PLACE)}


def experiment_record(experiment: NASExperiment, time: float) -> r.Experiment:
    """The first record of a ledger."""
    spec = experiment.spec
    return r.Experiment(name=experiment.metadata.name, spec=spec.to_json(), digest=digest(frozen_part(spec)), time=time)


def check_identity(recorded: r.Experiment, experiment: NASExperiment, uri: str) -> None:
    """Refuse an experiment that is another one than the ledger's.

    Raises:
        UserError: shows what differs.
    """
    if recorded.digest == digest(frozen_part(experiment.spec)):
        return
    was, now = flatten(frozen_part(recorded.spec)), flatten(frozen_part(experiment.spec))
    paths = sorted(path for path in was.keys() | now.keys() if was.get(path) != now.get(path))
    lines = [f"  spec.{path}: the run has {_show(was, path)}, this file {_show(now, path)}" for path in paths[:_SHOWN]]
    if len(paths) > _SHOWN:
        lines.append(f"  and {len(paths) - _SHOWN} more")
    raise UserError(
        f"{uri} holds the run of another experiment ({recorded.name}):\n" + "\n".join(lines) + "\n"
        "take another name or --storage for this one, or the file as it was, or remove the run to begin anew; only "
        f"{', '.join(MUTABLE_FIELDS)} may change"
    )


def flatten(document: Any, path: str = "") -> dict[str, Any]:
    """{a: {b: [1]}} as {"a.b[0]": 1}."""
    if isinstance(document, dict) and document:
        return {
            name: value
            for key, inner in document.items()
            for name, value in flatten(inner, f"{path}.{key}" if path else str(key)).items()
        }
    if isinstance(document, list) and document:
        return {
            name: value
            for index, inner in enumerate(document)
            for name, value in flatten(inner, f"{path}[{index}]").items()
        }
    return {path: document}


def _show(document: dict[str, Any], path: str) -> str:
    return json.dumps(document[path])[:80] if path in document else "nothing"
