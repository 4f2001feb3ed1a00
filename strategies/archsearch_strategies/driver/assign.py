"""From a trial of the table to what a worker gets of it."""

from __future__ import annotations

from archsearch.protocol import Assignment, KeepWeights, StorageRef, TrialKind
from archsearch.spec.experiment import NASExperiment
from archsearch_strategies.driver.trials import CANDIDATES, Row, TrialTable


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
    always = several or keep_all or row.kind is TrialKind.RETRAIN
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
        params=row.params,
        storage=storage,
        retention=spec.retention,
        keep_weights=KeepWeights.ALWAYS if always else KeepWeights.BEST,
        best_value=None if always or not best else best[0].metrics[spec.objectives[0].metric],
        isolation=spec.trials.isolation,
        threads=spec.trials.threads,
        timeout_seconds=spec.trials.timeout_seconds,
    )
