"""What comes after the search: which trials are trained again, which is exported, and with what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from archsearch.protocol import FIDELITY, TrialKind, TrialState
from archsearch.space import SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.controls import Profile, equal_sized
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.run import trial_seed
from archsearch_strategies.driver.session import Session
from archsearch_strategies.driver.summary import BEST_FOLDER
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.strategy import CHECKPOINT_OF, objective_values


class Finish:
    """Acts on what the table says.

    Args:
        until: waits for a condition, keeping workers and leases going.
        wall: seconds since the epoch, for the records.
        space: what controls are drawn from.
        profile: has workers do trials without a number, and returns when all are finished.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        table: TrialTable,
        session: Session,
        until: Callable[[Callable[[], bool]], Awaitable[None]],
        wall: Callable[[], float],
        *,
        space: SearchSpace,
        profile: Profile,
    ) -> None:
        self._spec = spec
        self._table = table
        self._session = session
        self._until = until
        self._wall = wall
        self._space = space
        self._profile = profile

    async def retrain(self, default: int, controls: int, *, workers_died: bool) -> Row | None:
        """Train the best again, beside random architectures of equal size, and wait for it.

        Args:
            default: how many, for a manifest that says nothing.
            controls: how many random ones, for a manifest that says nothing of them.
            workers_died: workers of an earlier driver ended with it.

        Returns:
            The trial whose weights are to be exported; None where no trial succeeded.
        """
        count = default if self._spec.retrain is None else self._spec.retrain.top_k
        best = contenders(self._table, max(1, count))
        if not best:
            return None
        self._session.book.adopt_leases(workers_died=workers_died)
        rows = [self._again(own) for own in best[:count]]
        if self._spec.retrain is not None and self._spec.retrain.controls is not None:
            controls = self._spec.retrain.controls
        everything = rows + (await self._controls(best[0], controls) if rows and controls else [])
        self._session.journal.when_durable(lambda: self._offer(everything))
        await self._until(lambda: all(row.finished for row in everything))
        return winner(self._table, best[0], rows)

    def is_exported(self, chosen: Row) -> bool:
        """Whether `best/` has this trial's model, or cannot have it."""
        done = self._table.exported
        return done is not None and done.number == chosen.number

    def exported(self, chosen: Row, row: Row) -> None:
        """Record how the export of `chosen` by the trial `row` ended."""
        error = "" if row.state is TrialState.SUCCEEDED else row.message.strip() or "the export failed"
        record = r.Exported(
            number=chosen.number or 0, artifacts=dict(row.artifacts), error=error[-4096:], time=self._wall()
        )
        self._session.journal.write(record)

    async def _controls(self, best: Row, count: int) -> list[Row]:
        """The trials of random architectures; those that an earlier driver added first."""
        table, seed = self._table, self._spec.seed
        rows = [row for row in table.retraining if row.control]
        if len(rows) >= count:
            return rows
        taken = {row.hash for row in table.retraining}
        drawn = await equal_sized(self._space, best, count - len(rows), seed=seed, taken=taken, profile=self._profile)
        for architecture in drawn:
            hashed = self._space.hash(architecture)
            record = r.Added(
                number=max(table.rows, default=0) + 1,
                of=best.number or 0,
                control=True,
                architecture=architecture.to_json(),
                hash=hashed,
                params={"config": {} if self._spec.retrain is None else self._spec.retrain.config},
                seed=trial_seed(seed, hashed, 0),
            )
            known = table.known.get(Row(None, record.kind, hash=hashed, params=record.params).identity)
            if known is None or not known.control:  # of an earlier end of the search
                self._session.journal.write(record)
                known = table.rows[record.number]
            rows.append(known)
        return rows

    def _again(self, own: Row) -> Row:
        wanted = again(self._table, own, self._spec)
        if isinstance(wanted, Row):
            return wanted
        self._session.journal.write(wanted)
        return self._table.rows[wanted.number]

    def _offer(self, rows: list[Row]) -> None:
        for row in rows:
            if row.state is TrialState.PENDING:
                self._session.book.offer(row)


def contenders(table: TrialTable, count: int) -> list[Row]:
    """The best trials with architectures of their own, at most `count`: by fidelity and first objective, best first.

    Of several objectives those that no other trial beats in all.
    """
    usable = table.pareto if len(table.objectives) > 1 else [row for row in table.rows.values() if row.values]
    found: dict[str, Row] = {}
    for row in sorted(usable, key=lambda each: (-each.merit[0], -each.merit[1], each.number or 0)):
        if len(found) >= count:
            break
        found.setdefault(row.hash, row)
    return list(found.values())


def again(table: TrialTable, row: Row, spec: ExperimentSpec) -> Row | r.Added:
    """The trial that trains `row`'s architecture again: the one that the ledger has, or the record of a new one."""
    config: JsonObject = {} if spec.retrain is None else spec.retrain.config
    record = r.Added(
        number=max(table.rows, default=0) + 1,
        of=row.number or 0,
        kind=TrialKind.RETRAIN,
        architecture=row.architecture,
        hash=row.hash,
        params={"config": config},
        replicate=row.replicate,
        seed=row.seed,
    )
    wanted = Row(None, record.kind, hash=record.hash, params=record.params, replicate=record.replicate).identity
    asked = next((each for each in table.retraining if each.identity == wanted), None)  # it may have failed
    return asked or table.known.get(wanted) or record


def winner(table: TrialTable, own: Row, retrained: list[Row]) -> Row:
    """Whose weights are exported: the best retrained trial's, or, where none succeeded, `own`'s."""
    done = [row for row in retrained if row.state is TrialState.SUCCEEDED]
    return max(
        done, key=lambda row: (objective_values(table.objectives, row.metrics)[0], -(row.number or 0)), default=own
    )


def export_row(row: Row) -> Row:
    """The trial, without a number, that writes `row`'s model to `best/`."""
    params: JsonObject = {"target": BEST_FOLDER}
    if "checkpoint" in row.artifacts:
        params["checkpoint"] = row.artifacts["checkpoint"]
    elif row.kind is TrialKind.INHERIT and row.input:
        params |= {name: value for name, value in row.params.items() if name != CHECKPOINT_OF}
        params |= {"checkpoint": row.input, "inherited": True}
    for name in ("config", FIDELITY):
        if row.params.get(name):
            params[name] = row.params[name]
    return Row(None, TrialKind.EXPORT, row.architecture, row.hash, params, row.replicate, row.seed)
