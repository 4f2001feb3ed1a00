"""Results that no worker brings: of a trial that an equal one has answered, and of one that cannot begin."""

from __future__ import annotations

from archsearch.protocol import FailureClass, Resources, TrialState
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.strategy import CHECKPOINT_OF


def cached(row: Row, source: Row, time: float) -> r.Result:
    """The result of a trial whose identity is known: `source`'s, at no cost."""
    return r.Result(
        number=row.number or 0,
        state=TrialState.INFEASIBLE if source.state is TrialState.INFEASIBLE else TrialState.CACHED,
        metrics=dict(source.metrics),
        message=source.message,
        resources=Resources(),
        artifacts=dict(source.artifacts),
        payload=source.payload,
        source=source.source or source.number,
        source_uri=source.source_uri,
        time=time,
    )


def without_input(row: Row, table: TrialTable, time: float) -> r.Result:
    """The failure of a trial that shall begin with weights that are not in the store."""
    number = row.params[CHECKPOINT_OF]
    source = table.rows.get(number)
    if source is None:
        why = "there is no such trial"
    elif source.weighted:
        why = "they were deleted, since it is not among the best (a strategy that needs them sets reuses_weights)"
    else:
        why = f"it is {source.state.value} and has handed over none"
    return r.Result(
        number=row.number or 0,
        state=TrialState.FAILED,
        failure=FailureClass.USER_ERROR,
        message=f"{CHECKPOINT_OF}: the trial is to begin with the weights of trial {number}, which are not kept: {why}",
        time=time,
    )
