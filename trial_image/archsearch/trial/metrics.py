"""What a trial reports, checked: metrics that are numbers, architecture weights that a point may carry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from archsearch.errors import ArchsearchError, BadMetric
from archsearch.protocol import POINT_CHOICES, POINT_LIMIT_BYTES, POINT_NUMBERS, Assignment, KeepWeights
from archsearch.spec.experiment import Goal

_SETTLED_KEEP = (KeepWeights.ALWAYS, KeepWeights.NEVER)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats; a tensor or array of one element is taken as its number.

    Raises:
        BadMetric: a name is no string or a value no number.
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise BadMetric(f"a metric's name must be a string, this one is {name!r}")
        try:
            found[name] = float(value)
        except (TypeError, ValueError) as error:
            raise BadMetric(f"metric {name!r} must be a number, it is {value!r:.80}") from error
    return found


def probabilities(weights: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Each choice's probabilities with 5 decimals; a choice with one that is not finite is left out.

    Raises:
        BadMetric: a value is no number.
        ArchsearchError: more than a point may carry.
    """
    try:
        found = {name: [round(float(value), 5) for value in _plain(values)] for name, values in weights.items()}
    except (TypeError, ValueError) as error:
        raise BadMetric(f"architecture weights must be a sequence of numbers for each choice: {error}") from error
    found = {name: values for name, values in found.items() if all(map(math.isfinite, values))}
    count, size = sum(map(len, found.values())), len(json.dumps(found))
    if len(found) > POINT_CHOICES or count > POINT_NUMBERS or size > POINT_LIMIT_BYTES // 2:
        raise ArchsearchError(
            f"a point carries architecture weights of at most {POINT_CHOICES} choices, {POINT_NUMBERS} numbers and "
            f"{POINT_LIMIT_BYTES // 2} bytes of JSON; these are {len(found)} choices, {count} numbers and {size} "
            "bytes: report a part of the choices"
        )
    return found


def _plain(values: Any) -> Sequence[float]:
    found: Sequence[float] = values.tolist() if hasattr(values, "tolist") else values
    return found


def check_final(assignment: Assignment, metrics: Mapping[str, Any], *, objectives: bool = True) -> dict[str, float]:
    """The final metrics of a trial, all finite; with `objectives` each of these is there.

    Raises:
        BadMetric: names the metric and what was reported.
    """
    found = numbers(metrics)
    for objective in assignment.objectives if objectives else ():
        if objective.metric not in found:
            known = ", ".join(sorted(found)) or "none"
            raise BadMetric(f"the objective {objective.metric!r} was not reported; reported: {known}")
    for name, value in found.items():
        if not math.isfinite(value):
            raise BadMetric(f"metric {name!r} is {value}: it must be a finite number")
    return found


def worth_keeping(assignment: Assignment, metrics: Mapping[str, float]) -> bool:
    """Whether `keepWeights` asks for the final weights of a trial with these metrics."""
    if assignment.keep_weights in _SETTLED_KEEP:
        return assignment.keep_weights is KeepWeights.ALWAYS
    objective = assignment.objectives[0] if assignment.objectives else None
    value = metrics.get(objective.metric) if objective else None
    if objective is None or value is None:
        return False
    best = assignment.best_value
    return best is None or (value >= best if objective.goal is Goal.MAXIMIZE else value <= best)
