"""The driver's warm start: reads earlier runs once, and answers what they know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from archsearch.errors import StoreError, UserError
from archsearch.space import SearchSpace
from archsearch.spec.experiment import ExperimentSpec
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.earlier import (
    EarlierRun,
    Opener,
    check_spaces,
    is_foreign,
    read_runs,
    weights_exist,
)
from archsearch_strategies.driver.known import KnownResults, differences, reuse_digest
from archsearch_strategies.driver.prior import prior_record
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable

logger = logging.getLogger(__name__)

Patiently = Callable[[Callable[[], list[EarlierRun]]], Awaitable[list[EarlierRun]]]


class WarmStart:
    """What `spec.warmStart` brings: known results, and prior points for the strategy.

    Once the prior points are in this run's ledger the earlier runs may be gone: the search goes on, and the trials that
    they would have answered are run.

    Args:
        open_: opens a URI with the keys of this run.
        own: URI of this run.
    """

    def __init__(self, spec: ExperimentSpec, open_: Opener, own: str) -> None:
        self._spec = spec
        self._open = open_
        self._own = own
        self._runs: list[EarlierRun] = []
        self._known: KnownResults | None = None
        self.prior: r.Prior | None = None  # what the strategy is to be told, if that is not in the ledger yet

    async def read(self, table: TrialTable, patiently: Patiently) -> None:
        """Read the ledgers of all earlier runs, as far as they go.

        Raises:
            UserError: one cannot be used, and the strategy has not started yet.
            StoreUnavailable: as `patiently` raises it, and the strategy has not started yet.
        """
        wanted = self._spec.warm_start
        if not wanted:
            return
        try:
            self._runs = await patiently(lambda: read_runs(wanted, self._open, self._spec.objectives, self._own))
        except (UserError, StoreError) as error:
            if table.prior is None:
                raise
            logger.warning("earlier runs cannot be read any more, so their results are not reused from here: %s", error)

    def check(
        self, table: TrialTable, space: SearchSpace, identity: Mapping[str, str | None], *, needs_weights: bool
    ) -> None:
        """Compare the earlier runs with this one, and keep what they know.

        Raises:
            UserError: one is of another space.
        """
        if not self._runs:
            return
        if table.prior is None:
            check_spaces(self._runs, space)
        reuse = reuse_digest(identity)
        self._known = KnownResults(self._runs, reuse, self._spec, self._own, needs_weights=needs_weights)
        if table.prior is None:
            self.prior = prior_record(self._runs, space, self._spec.objectives, reuse)
            self._tell(identity)
        self._runs = []

    def result(self, row: Row, time: float) -> r.Result | None:
        """The known result of a pending trial, or None."""
        return None if self._known is None else self._known.result(row, time)

    async def exportable(self, row: Row) -> Row:
        """An export trial without the weights of an earlier run that are gone: it trains them again."""
        key = str(row.params.get("checkpoint", ""))
        if is_foreign(key) and not await asyncio.to_thread(weights_exist, self._open, key):
            logger.warning("the weights %s are gone: the network is trained again", key)
            row.params = {name: value for name, value in row.params.items() if name not in ("checkpoint", "inherited")}
        return row

    def _tell(self, identity: Mapping[str, str | None]) -> None:
        metrics = ", ".join(objective.metric for objective in self._spec.objectives)
        for run in self._runs:
            usable = sum(bool(row.values) for row in run.table.rows.values())
            differing = differences(run, identity)
            how = f"as prior points only: other or unknown {', '.join(differing)}" if differing else "and its trials"
            if usable:
                logger.info("warm start from %s: %d results with %s, %s", run.uri, usable, metrics, how)
            else:
                logger.warning(
                    "warm start from %s: none of its results has %s, so it gives no prior points", run.uri, metrics
                )
