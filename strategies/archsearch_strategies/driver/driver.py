"""The driver: one experiment from the first worker to the summary."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import archsearch
from archsearch import registry
from archsearch.errors import ArchsearchError, Fenced, NonDeterministic, StoreUnavailable, UserError
from archsearch.protocol import Assignment, StorageRef
from archsearch.space import SearchSpace
from archsearch.spec import reasons
from archsearch.spec.experiment import ExperimentSpec, NASExperiment
from archsearch.spec.problems import SpecError
from archsearch.spec.status import SearchStatus, Verdict, Waiting
from archsearch.store import Store, open_at
from archsearch_strategies.checks import check_experiment
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.assign import assignment
from archsearch_strategies.driver.bulletin import Bulletin, Listener
from archsearch_strategies.driver.crew import Crew, WorkersFailed
from archsearch_strategies.driver.describe import check_strategy, find_space
from archsearch_strategies.driver.earlier import Opener
from archsearch_strategies.driver.finish import Finish, export_row
from archsearch_strategies.driver.identity import check_identity, experiment_record
from archsearch_strategies.driver.known import identity_parts, reuse_digest
from archsearch_strategies.driver.metrics import DriverMetrics
from archsearch_strategies.driver.pulse import FinalState, Halt, Pulse
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.search import End, Search, may_reopen
from archsearch_strategies.driver.session import Callbacks, Session, begin, patiently, writer_name
from archsearch_strategies.driver.summary import SUMMARY_KEY, Summary, summarize
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.driver.warm import WarmStart
from archsearch_strategies.launch.base import LaunchContext, Launcher
from archsearch_strategies.lease.book import LEASE_SECONDS
from archsearch_strategies.lease.server import LeaseServer
from archsearch_strategies.ledger import Ledger
from archsearch_strategies.making import make_strategy
from archsearch_strategies.stopping import make_rule
from archsearch_strategies.strategy import Execution, SearchFailed, Strategy, StrategyError, strategy_run

logger = logging.getLogger(__name__)

T = TypeVar("T")

FAILED_REASONS = (reasons.TOO_MANY_FAILED_TRIALS,)


class Driver:
    """Runs one experiment durably. Await `run` once; the other methods may be called from the same event loop.

    Args:
        experiment: parsed; what a file can tell is checked again by `run`.
        store: the run's folder.
        launcher: starts workers. One with a true attribute `ephemeral` starts processes that die with the driver;
            others' workers go on when the driver stops, and are found again by the next one.
        listener: gets a status at most once a second, on the event loop, when something changed, and once at the end.
        token: bearer token of the workers; made here where none is given.
        host, port: where the lease server listens; port 0 takes a free one.
        url: how workers reach it, if not by host and port.
        open_earlier: opens the runs that `spec.warmStart` names, with the keys that this run has; by default with those
            of the environment and the endpoint of the spec.
        storage: what workers are told of the store; by default its URI and the spec's endpoint and region.
        labels: for the launcher.
        until_suspended: `run` returns when the experiment is suspended, instead of waiting to be resumed.
        store_patience: seconds to wait for a store that does not answer when the ledger is opened.
    """

    def __init__(
        self,
        experiment: NASExperiment,
        store: Store,
        launcher: Launcher,
        *,
        listener: Listener | None = None,
        token: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        url: str | None = None,
        storage: StorageRef | None = None,
        labels: dict[str, str] | None = None,
        until_suspended: bool = False,
        store_patience: float = float("inf"),
        open_earlier: Opener | None = None,
        lease_seconds: float = LEASE_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.experiment = experiment
        self.store = store
        self.launcher = launcher
        self.table = TrialTable(experiment.spec.objectives)
        self.bulletin = Bulletin(self.table, listener, wall)
        self._token = token or secrets.token_urlsafe(32)
        self._server = LeaseServer(self._token, host, port)
        self._url = url
        self._labels = labels or {}
        spec = experiment.spec
        self._storage = storage or StorageRef(
            uri=store.uri,
            endpoint=spec.storage.endpoint,
            region=spec.storage.region,
            path_style=spec.storage.path_style,
        )
        self._ephemeral = bool(getattr(launcher, "ephemeral", False))
        self._store_patience = store_patience
        self._earlier = WarmStart(spec, open_earlier or (lambda uri: open_at(spec.storage, uri)), store.uri)
        self._lease_seconds = lease_seconds
        self._wall = wall
        self._context: LaunchContext | None = None
        self._opened: Session | None = None
        self._search: Search | None = None
        self._space: SearchSpace | None = None
        self._failure: ArchsearchError | None = None  # the ledger's
        self._pulse = Pulse(
            self.table,
            launcher,
            self.bulletin,
            spec=lambda: self.spec,
            session=lambda: self.session,
            failure=self._broken,
            until_suspended=until_suspended,
            wall=wall,
        )
        self._crew = Crew(self._server, self.bulletin, self._pulse.notice)

    @property
    def spec(self) -> ExperimentSpec:
        return self.experiment.spec

    @property
    def session(self) -> Session:
        """Ledger and leases; RuntimeError before the ledger is open."""
        if self._opened is None:
            raise RuntimeError("the driver's ledger is not open yet")
        return self._opened

    @property
    def metrics(self) -> DriverMetrics:
        """For whoever serves them: `metrics.registry`."""
        return self.bulletin.metrics

    @property
    def url(self) -> str:
        """How workers reach the lease server."""
        return self._url or self._server.url

    def update(self, spec: ExperimentSpec) -> None:
        """Take a changed spec: suspend, parallelTrials, budget, retention. What may not change is left as it was."""
        kept = {name: getattr(spec, name) for name in ("suspend", "parallel_trials", "budget", "retention")}
        self.experiment = self.experiment.model_copy(update={"spec": self.spec.model_copy(update=kept)})
        self.launcher.update(self.spec)
        if self._search is not None:
            self._search.budget = self.spec.budget
            self._search.facts(self.spec.parallel_trials)
        if self._opened is not None:
            self._opened.retention.keep = self.spec.retention.checkpoints
        self._pulse.notice()

    def request_stop(self) -> None:
        """Leave in order: `run` returns a summary with state Stopped, and the next driver goes on."""
        self._pulse.stop_asked = True
        self._pulse.notice()

    def status(self) -> SearchStatus:
        """The status now; bounded."""
        self.bulletin.max_trials = self.spec.budget.max_trials
        return self.bulletin.status()

    async def run(self) -> Summary:
        """Run to the end, or until `request_stop`.

        Returns:
            The summary; a fault of the manifest, the code or the strategy is a state Failed with its reason.

        Raises:
            Fenced: another driver has taken over.
            StoreError: the store refuses, or did not answer within `store_patience`.
        """
        fenced = False
        try:
            await self._server.start()
            return await self._run()
        except Fenced:
            fenced = True
            raise
        finally:
            await self._shut_down(fenced)

    # --- phases

    async def _run(self) -> Summary:
        try:
            await self._start()
            space = await self._accept()
            if self.table.ended is None:
                await self._find(space)
            await self._finish(space)
            return await self._conclude()
        except Halt as halt:
            return self._final(halt.state, reasons.SUSPENDED if halt.state == "Suspended" else "Stopped", str(halt))
        except UserError as error:
            self.bulletin.judge(Verdict(accepted=False))
            return self._final("Failed", reasons.SPEC_INVALID, str(error))
        except NonDeterministic as error:
            return self._final("Failed", reasons.NON_DETERMINISTIC, str(error))
        except SearchFailed as error:
            return self._final("Failed", reasons.SEARCH_FAILED, str(error))
        except StrategyError as error:
            logger.error("%s", error, exc_info=error.__cause__ is not None)
            return self._final("Failed", reasons.STRATEGY_ERROR, str(error))
        except WorkersFailed as error:
            return self._final("Failed", reasons.WORKERS_FAILED, str(error))

    async def _start(self) -> None:
        """The first worker starts while the ledger is opened."""
        problems = check_experiment(self.experiment)
        if problems:
            raise SpecError(problems)
        self._context = LaunchContext(
            spec=self.spec,
            epoch=0,
            lease_url=self.url,
            token=self._token,
            on_lost=self._crew.lost,
            on_waiting=self._crew.waits,
            labels=self._labels,
        )
        rule = self.table.watcher = make_rule(self.spec.stopping, self.spec.objectives)
        await self.launcher.start(self._context)
        if not self.spec.suspend:
            self.launcher.ensure(1)
        self._pulse.tell()
        session = self._opened = self.bulletin.session = await self._open()
        session.book.rule = rule
        self._context.epoch = session.ledger.epoch
        if self.table.ended is None:
            # Before the first record, so that a file with another warm start is not taken for another experiment's.
            await self._earlier.read(self.table, self._patiently)
        record, recorded = experiment_record(self.experiment, self._wall()), self.table.experiment
        if recorded is None or (not self.table.begun and recorded.digest != record.digest):
            self._write(record)  # of a run that was refused before its search began, the corrected file is the run's
        else:
            check_identity(recorded, self.experiment, self.store.uri)
        self._write(r.Opened(epoch=session.ledger.epoch, version=archsearch.__version__, time=self._wall()))
        if may_reopen(self.table, self.spec.budget):
            self._write(r.Reopened(time=self._wall()))
        if self.table.ended is None:
            self._server.serve(session.book)

    async def _patiently(self, action: Callable[[], T]) -> T:
        """What `action` does with a store, tried again while that does not answer."""

        def waiting(error: StoreUnavailable) -> None:
            self.bulletin.wait_for(Waiting(reason=reasons.STORE_UNAVAILABLE, message=str(error)[:4096]))
            self._pulse.tell()

        found = await patiently(
            action, patience=self._store_patience, waiting=waiting, stopped=lambda: self._pulse.stop_asked
        )
        self.bulletin.wait_for(None)
        return found

    async def _open(self) -> Session:
        ledger = await self._patiently(lambda: Ledger.open(self.store, writer_name()))
        session = begin(
            ledger,
            self.store,
            self.table,
            self.spec,
            Callbacks(self._assign, self._row_finished, self._crew.serves, self.metrics.queue.observe),
            lease_seconds=self._lease_seconds,
            strategy=self._strategy_class(),
            wall=self._wall,
        )
        session.watch = asyncio.create_task(self._watch_ledger(ledger))
        return session

    async def _accept(self) -> SearchSpace:
        """The search space, and the last checks that need it."""
        space, origin = await find_space(self.store, self.spec, self.table.space, self._pulse.control)
        self._space = space
        identity = identity_parts(self.spec, space.digest, origin)
        self._earlier.check(self.table, space, identity, needs_weights=self._strategy_class().reuses_weights)
        check_strategy(self._strategy(), space, self.spec)
        if self.table.space is None:
            record = r.Accepted(
                space=space.digest,
                identity=identity,
                reuse=reuse_digest(identity),
                highest_fidelity=self._strategy().highest_fidelity,
            )
            self._write(record)
        self.bulletin.judge(Verdict(accepted=True, state="Running", reason=reasons.SEARCHING))
        self._pulse.notice()
        return space

    async def _find(self, space: SearchSpace) -> None:
        """The search itself, until a rule ends it."""
        session = self.session
        search = self._search = Search(
            Execution(self._strategy(), strategy_run(space, self.spec.objectives, seed=self.spec.seed)),
            self.table,
            session.journal,
            session.book,
            seed=self.spec.seed,
            budget=self.spec.budget,
            wall=self._wall,
            changed=self._pulse.notice,
            known=self._earlier.result,
        )
        self._pulse.searching = True
        self.bulletin.search_begins()
        try:
            search.begin(
                session.recorded,
                self.spec.parallel_trials,
                workers_died=self._ephemeral,
                prior=self._earlier.prior,
            )
            session.recorded = []
            end: End | None = None

            def over() -> bool:
                nonlocal end
                end = search.end(self._wall())
                return end is not None

            await self._pulse.until(over)
            if end is not None:
                self._write(r.Ended(reason=end.reason, message=end.message, time=self._wall()))
            session.book.end_search()
        finally:
            self._search, self._pulse.searching = None, False
            await search.close()

    async def _finish(self, space: SearchSpace) -> None:
        """Train the best again where that is asked for, and write the best model to `best/`."""
        book = self.session.book
        book.ended = True
        self._server.serve(book)
        self.session.retention.look()
        finish = Finish(
            self.spec,
            self.table,
            self.session,
            self._pulse.until,
            self._wall,
            space=space,
            profile=self._pulse.control_all,
        )
        strategy = self._strategy()
        chosen = await finish.retrain(strategy.retrains, strategy.controls, workers_died=self._ephemeral)
        if chosen is None or finish.is_exported(chosen):
            return
        finish.exported(chosen, await self._pulse.control(await self._earlier.exportable(export_row(chosen))))

    async def _conclude(self) -> Summary:
        ended, exported = self.table.ended, self.table.exported
        if ended is None:
            raise RuntimeError("a search that has not ended cannot be concluded")
        failed = ended.reason in FAILED_REASONS or not self.table.best
        message = ended.message
        if exported is not None and exported.error:
            message += f"; the best model could not be exported: {exported.error}"
        summary = self._final("Failed" if failed else "Succeeded", ended.reason, message)
        await self.session.journal.settled()
        await asyncio.to_thread(self.store.put, SUMMARY_KEY, summary.model_dump_json(by_alias=True, indent=1).encode())
        return summary

    def _final(self, state: FinalState, reason: str, message: str) -> Summary:
        shown: Literal["Running", "Suspended", "Succeeded", "Failed"] = "Running" if state == "Stopped" else state
        accepted = True if state == "Succeeded" else self.bulletin.verdict.accepted
        self.bulletin.judge(Verdict(accepted=accepted, state=shown, reason=reason[:256], message=message[:4096]))
        self.bulletin.wait_for(None)
        return summarize(
            self.experiment,
            self.table,
            state=state,
            reason=reason,
            message=message,
            uri=self.store.uri,
            now=self._wall(),
        )

    async def _shut_down(self, fenced: bool) -> None:
        """Stop workers where they are ours alone or the run is over; close ledger and server."""
        state, session = self.bulletin.verdict.state, self._opened
        over = state in ("Succeeded", "Failed", "Suspended")
        if session is not None:
            session.book.paused = state != "Succeeded"
        if over:
            self._server.finish()
        if self._context is not None and (self._ephemeral or (over and not fenced)):
            await self.launcher.stop()
        await self._server.stop()
        if session is not None:
            goes_on = self.table.ended is None and self.table.experiment is not None
            await session.close(r.Closed(time=self._wall()) if goes_on else None)
        self._pulse.tell(last=True)

    # --- what others call

    def _broken(self) -> ArchsearchError | None:
        """What the run cannot go on after."""
        of_search = self._search.error if self._search is not None else None
        return self._failure or self._crew.failure or of_search

    async def _watch_ledger(self, ledger: Ledger) -> None:
        self._failure = await ledger.failed()
        self._pulse.notice()

    def _write(self, record: r.Record) -> None:
        self.session.journal.write(record)

    def _row_finished(self, row: Row) -> None:
        if row.number is None:
            self._pulse.notice()
            return
        self.metrics.finished(row)
        if self._search is not None:
            self._search.row_finished(row)
        self.session.retention.look()

    def _strategy_class(self) -> type[Strategy[Any]]:
        found: type[Strategy[Any]] = registry.find("archsearch.strategies", self.spec.strategy.name)
        return found

    def _strategy(self) -> Strategy[Any]:
        return make_strategy(self.spec)

    def _assign(self, row: Row) -> Assignment:
        return assignment(
            self.experiment,
            self.table,
            row,
            storage=self._storage,
            space_digest=None if self._space is None else self._space.digest,
            keep_all=self._strategy_class().reuses_weights,
        )
