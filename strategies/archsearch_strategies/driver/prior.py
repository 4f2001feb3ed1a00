"""Prior points: what earlier runs of the same space tell a strategy."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from archsearch.errors import UserError
from archsearch.protocol import FIDELITY, fidelity_of
from archsearch.space import SearchSpace
from archsearch.spec.experiment import Objective
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.earlier import EarlierRun
from archsearch_strategies.driver.rows import CANDIDATES, Row
from archsearch_strategies.strategy import PriorPoint

POINTS_KEPT = 1000


def prior_record(
    runs: Sequence[EarlierRun], space: SearchSpace, objectives: Sequence[Objective], reuse: str
) -> r.Prior:
    """The results of all runs with values of the objectives, at most `POINTS_KEPT`, the most promising first.

    Results measured as this run measures (the same reuse digest, no parameters of their own) are one group, whatever
    their seeds; of the others each run and each setting of parameters is one. Points are ordered by their place in
    their group. Of an architecture the point of the lowest group is taken, in a group the best. Beyond the bound half
    are the first, and half are spread over the others.
    """
    groups = _groups(runs, reuse)
    ranked = [_ranked(rows, objectives) for rows in groups]
    chosen: dict[str, tuple[Row, int]] = {}  # by architecture, with its group
    for place in range(max(map(len, ranked), default=0)):
        for group, rows in enumerate(ranked):
            if place < len(rows) and group < chosen.get(rows[place].hash, (None, len(ranked)))[1]:
                chosen[rows[place].hash] = rows[place], group
    points = (_point(row, group, space, objectives) for row, group in _bounded(list(chosen.values())))
    return r.Prior(uris=[run.uri for run in runs], points=[point for point in points if point is not None])


def _groups(runs: Sequence[EarlierRun], reuse: str) -> list[list[Row]]:
    """The usable trials by group, the comparable ones first, each in the order of their runs."""
    comparable: list[Row] = []
    others: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for index, run in enumerate(runs):
        for row in run.table.rows.values():
            if row.kind not in CANDIDATES or not row.values:
                continue
            if row.params or not reuse or run.reuse != reuse:
                others[index, _setting(row)].append(row)
            else:
                comparable.append(row)
    # Of one run the highest fidelity first: its order tells most.
    return [
        comparable,
        *(others[key] for key in sorted(others, key=lambda key: (-fidelity_of(others[key][0].params), key))),
    ]


def _setting(row: Row) -> str:
    kept = {name: value for name, value in row.params.items() if name in (FIDELITY, "config")}
    return json.dumps([row.kind.value, kept], sort_keys=True)


def _ranked(rows: list[Row], objectives: Sequence[Objective]) -> list[Row]:
    """Best first: by the one objective, or of several those first that no other beats in all."""
    first = sorted(rows, key=lambda row: -row.values[0])
    if len(objectives) == 1:
        return first
    front = set(map(id, _front(first)))
    return sorted(first, key=lambda row: id(row) not in front)


def _front(rows: list[Row]) -> list[Row]:
    """Those of `rows` (best first objective first) that none dominates."""
    found: list[Row] = []
    for row in rows:
        if not any(all(a >= b for a, b in zip(other.values, row.values, strict=True)) for other in found):
            found.append(row)
    return found


def _point(row: Row, group: int, space: SearchSpace, objectives: Sequence[Objective]) -> r.PriorResult | None:
    try:
        architecture = space.validate(row.architecture or {})
    except UserError:  # a predicate of the user's is another one now
        return None
    metrics = {each.metric: row.metrics[each.metric] for each in objectives}
    return r.PriorResult(
        architecture=architecture.to_json(),
        hash=space.hash(architecture),
        metrics=metrics,
        values=list(row.values),
        group=group,
    )


def _bounded(points: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    half = POINTS_KEPT // 2
    if len(points) <= POINTS_KEPT:
        return points
    step = (len(points) - half) / (POINTS_KEPT - half)
    return points[:half] + [points[half + int(index * step)] for index in range(POINTS_KEPT - half)]


def to_points(record: r.Prior, space: SearchSpace) -> tuple[PriorPoint, ...]:
    """The record as the strategy sees it."""
    return tuple(
        PriorPoint(space.validate(each.architecture), each.hash, each.metrics, tuple(each.values), each.group)
        for each in record.points
    )
