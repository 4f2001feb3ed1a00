"""From a trial of the table to what a worker gets of it."""

from __future__ import annotations

from archsearch.protocol import Assignment, KeepWeights, StorageRef, TrialKind
from archsearch.spec.experiment import NASExperiment
from archsearch_strategies.driver.rows import CANDIDATES, Row
from archsearch_strategies.driver.trials import TrialTable

WITHOUT_WEIGHTS = (TrialKind.INHERIT, TrialKind.PROFILE, TrialKind.PROXY)  # an inherit trial's are the supernet's


def assignment(
    experiment: NASExperiment,
    table: TrialTable,
    row: Row,
    *,
    storage: StorageRef,
    space_digest: str | None,
    keep_all: bool,
) -> Assignment:
    """The assignment of `row` as things stand.

    Args:
        space_digest: what the worker's own description must have; None while it is not known.
        keep_all: keep every trial's weights, not only those of the best.
    """
    spec, best = experiment.spec, table.best
    several = len(spec.objectives) > 1
    params = row.params
    if row.input:
        params = params | {"checkpoint": row.input}
    always = several or keep_all or row.kind in (TrialKind.RETRAIN, TrialKind.SUPERNET)
    keep = KeepWeights.ALWAYS if always else KeepWeights.BEST
    if row.kind in WITHOUT_WEIGHTS or row.control:
        keep = KeepWeights.NEVER
    return Assignment(
        experiment=experiment.metadata.name,
        kind=row.kind,
        number=row.number,
        folder=row.kind.value if row.number is None else f"trials/{row.number}",
        model_space=spec.model_space,
        evaluator=spec.evaluator,
        objectives=spec.objectives,
        constraints=spec.constraints if row.kind in CANDIDATES else [],
        architecture=row.architecture,
        space_digest=space_digest,
        seed=row.seed,
        params=params,
        storage=storage,
        retention=spec.retention,
        keep_weights=keep,
        best_value=best[0].metrics[spec.objectives[0].metric] if best and keep is KeepWeights.BEST else None,
        isolation=spec.trials.isolation,
        threads=spec.trials.threads,
        timeout_seconds=spec.trials.timeout_seconds,
    )
