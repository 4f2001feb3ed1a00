"""The driver: one experiment from the first worker to the summary."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

import archsearch
from archsearch import registry
from archsearch.errors import ArchsearchError, Fenced, NonDeterministic, StoreUnavailable, UserError
from archsearch.protocol import Assignment, KeepWeights, StorageRef, TrialKind, TrialState
from archsearch.space import SearchSpace
from archsearch.spec import reasons
from archsearch.spec.experiment import ExperimentSpec, NASExperiment
from archsearch.spec.problems import Problem, SpecError
from archsearch.spec.status import SearchStatus, Verdict, Waiting
from archsearch.store import Store
from archsearch_strategies.checks import check_experiment
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.describe import cached_space, check_metrics, described_space, save_space
from archsearch_strategies.driver.identity import check_identity, experiment_record
from archsearch_strategies.driver.journal import Journal
from archsearch_strategies.driver.metrics import DriverMetrics
from archsearch_strategies.driver.search import Search, may_reopen
from archsearch_strategies.driver.status import search_status
from archsearch_strategies.driver.summary import BEST_FOLDER, SUMMARY_KEY, Summary, summarize
from archsearch_strategies.driver.trials import Row, TrialTable
from archsearch_strategies.launch.base import LaunchContext, Launcher, WorkerLost
from archsearch_strategies.launch.base import Waiting as LaunchWaiting
from archsearch_strategies.lease.book import LEASE_SECONDS, BookSettings, LeaseBook
from archsearch_strategies.lease.server import LeaseServer
from archsearch_strategies.ledger import Ledger
from archsearch_strategies.strategy import Execution, Strategy, StrategyError, strategy_run

logger = logging.getLogger(__name__)

Listener = Callable[[SearchStatus], None]
FinalState = Literal["Succeeded", "Failed", "Suspended", "Stopped"]

TICK_SECONDS = 1.0
STORE_LAG_SECONDS = 10.0  # a store that has not answered for so long is told
CRASHES = 10  # workers in a row that ended before they were granted anything
FAILED_REASONS = (reasons.TOO_MANY_FAILED_TRIALS,)


class WorkersFailed(ArchsearchError):
    """No worker comes up."""


class _Halt(Exception):  # noqa: N818 - not an error: leaves the search in order
    def __init__(self, state: FinalState, message: str) -> None:
        self.state: FinalState = state
        super().__init__(message)


class Driver:
    """Runs one experiment durably. Make it, and await `run` once; the other methods may be called from the same event loop.

    Args:
        experiment: parsed; what a file can tell is checked again by `run`.
        store: the run's folder.
        launcher: starts workers. One with a true attribute `ephemeral` starts processes that die with the driver; others'
            workers go on when the driver stops, and are found again by the next one.
        listener: gets a status at most once a second, on the event loop, when something changed, and once at the end.
        token: bearer token of the workers; made here where none is given.
        host, port: where the lease server listens; port 0 takes a free one.
        url: how workers reach it, if not by host and port.
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
        lease_seconds: float = LEASE_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.experiment = experiment
        self.store = store
        self.launcher = launcher
        self.listener = listener
        self.metrics = DriverMetrics()
        self.table = TrialTable(experiment.spec.objectives)
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
        self._until_suspended = until_suspended
        self._store_patience = store_patience
        self._lease_seconds = lease_seconds
        self._wall = wall
        self._changed = asyncio.Event()
        self._stop_asked = False
        self._context: LaunchContext | None = None
        self._ledger: Ledger | None = None
        self._journal: Journal | None = None
        self._book: LeaseBook | None = None
        self._search: Search | None = None
        self._space: SearchSpace | None = None
        self._recorded: list[r.Record] = []
        self._watch: asyncio.Task[None] | None = None
        self._controls: set[Row] = set()  # describe and export, while they are wanted
        self._failure: ArchsearchError | None = None
        self._crashes = 0
        self._verdict = Verdict(reason=reasons.PENDING_VALIDATION)
        self._waiting: Waiting | None = None
        self._published_at = float("-inf")
        self._dirty = True
        self._started = time.monotonic()
        self._finished_before = 0

    @property
    def spec(self) -> ExperimentSpec:
        return self.experiment.spec

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
        self._notice()

    def request_stop(self) -> None:
        """Leave in order: `run` returns a summary with state Stopped, and the next driver goes on."""
        self._stop_asked = True
        self._notice()

    def status(self) -> SearchStatus:
        """The status now; bounded."""
        return search_status(
            self.table,
            max_trials=self.spec.budget.max_trials,
            verdict=self._verdict,
            waiting=self._store_waiting() or self._waiting,
            eta_seconds=self._eta(),
            now=self._wall(),
        )

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
            await self._export()
            return await self._conclude()
        except _Halt as halt:
            return self._final(halt.state, reasons.SUSPENDED if halt.state == "Suspended" else "Stopped", str(halt))
        except UserError as error:
            self._verdict = Verdict(accepted=False)
            return self._final("Failed", reasons.SPEC_INVALID, str(error))
        except NonDeterministic as error:
            return self._final("Failed", reasons.NON_DETERMINISTIC, str(error))
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
            on_lost=self._worker_lost,
            on_waiting=self._launch_waits,
            labels=self._labels,
        )
        await self.launcher.start(self._context)
        if not self.spec.suspend:
            self.launcher.ensure(1)
        self._publish()
        ledger = await self._open_ledger()
        self._ledger = ledger
        self._context.epoch = ledger.epoch
        self._recorded = self.table.replay(ledger.records)
        ledger.records.clear()
        self._finished_before = self.table.counted_finished
        self._watch = asyncio.create_task(self._watch_ledger(ledger))
        journal = self._journal = Journal(ledger, self.table)
        if self.table.experiment is None:
            journal.write(experiment_record(self.experiment, self._wall()))
        else:
            check_identity(self.table.experiment, self.experiment, self.store.uri)
        journal.write(r.Opened(epoch=ledger.epoch, version=archsearch.__version__, time=self._wall()))
        if may_reopen(self.table, self.spec.budget):
            journal.write(r.Reopened(time=self._wall()))
        self._book = LeaseBook(
            BookSettings(
                epoch=ledger.epoch,
                retries=self.spec.trials.retries,
                objectives=self.table.objectives,
                parallelism=self.spec.parallel_trials,
                lease_seconds=self._lease_seconds,
            ),
            self.table,
            journal,
            assign=self._assign,
            finished=self._row_finished,
            now=asyncio.get_running_loop().time,
            wall=self._wall,
        )
        self._book.observe_wait = self.metrics.queue.observe
        self._book.granted = self._worker_serves
        if self.table.ended is None:
            self._server.serve(self._book)

    async def _open_ledger(self) -> Ledger:
        writer = f"{socket.gethostname()}-{os.getpid()}"
        end, pause = time.monotonic() + self._store_patience, 0.5
        while True:
            try:
                ledger = await asyncio.to_thread(Ledger.open, self.store, writer)
            except StoreUnavailable as error:
                if time.monotonic() >= end or self._stop_asked:
                    raise
                self._waiting = Waiting(reason=reasons.STORE_UNAVAILABLE, message=str(error))
                self._dirty = True
                self._publish()
                await asyncio.sleep(pause)
                pause = min(10.0, 2 * pause)
            else:
                self._waiting = None
                return ledger

    async def _accept(self) -> SearchSpace:
        """The search space, and the last checks that need it."""
        space = await asyncio.to_thread(cached_space, self.store, self.spec, self.table.space)
        if space is None:
            row = await self._control(Row(number=None, kind=TrialKind.DESCRIBE))
            space = described_space(row)
            check_metrics(row, self.spec)
            await asyncio.to_thread(save_space, self.store, space, self.spec, self.table.space, self.store.uri)
        self._space = space
        faults = self._strategy().check(space)
        if faults:
            name = self.spec.strategy.name
            raise SpecError(
                [Problem("spec.modelSpace", f"strategy {name!r} cannot search it: {each}") for each in faults]
            )
        if self.table.space is None:
            self._write(r.Accepted(space=space.digest))
        self._verdict = Verdict(accepted=True, state="Running", reason=reasons.SEARCHING)
        self._notice()
        return space

    async def _find(self, space: SearchSpace) -> None:
        """The search itself, until a rule ends it."""
        assert self._book is not None and self._journal is not None
        run = strategy_run(space, self.spec.objectives, seed=self.spec.seed)
        search = self._search = Search(
            Execution(self._strategy(), run),
            self.table,
            self._journal,
            self._book,
            seed=self.spec.seed,
            budget=self.spec.budget,
            wall=self._wall,
            changed=self._notice,
        )
        try:
            search.begin(self._recorded, self.spec.parallel_trials, workers_died=self._ephemeral)
            self._recorded = []
            await self._until(lambda: search.end(self._wall()) is not None)
            end = search.end(self._wall())
            assert end is not None
            self._write(r.Ended(reason=end.reason, message=end.message, time=self._wall()))
            self._book.end_search()
        finally:
            self._search = None
            await search.close()

    async def _export(self) -> None:
        """Have a worker write the best trial's model to `best/`."""
        best = self.table.best[0] if self.table.best else None
        assert best is None or best.number is not None
        if best is None or (self.table.exported is not None and self.table.exported.number == best.number):
            return
        assert self._book is not None and best.number is not None
        self._server.serve(self._book)
        self._book.ended = True
        params: dict[str, Any] = {"target": BEST_FOLDER}
        if "checkpoint" in best.artifacts:
            params["checkpoint"] = best.artifacts["checkpoint"]
        row = Row(None, TrialKind.EXPORT, best.architecture, best.hash, params, best.replicate, best.seed)
        await self._control(row)
        error = "" if row.state is TrialState.SUCCEEDED else row.message.strip() or "the export failed"
        self._write(
            r.Exported(number=best.number, artifacts=dict(row.artifacts), error=error[-4096:], time=self._wall())
        )

    async def _conclude(self) -> Summary:
        ended, exported = self.table.ended, self.table.exported
        assert ended is not None and self._journal is not None
        failed = ended.reason in FAILED_REASONS or not self.table.best
        message = ended.message
        if exported is not None and exported.error:
            message += f"; the best model could not be exported: {exported.error}"
        summary = self._final("Failed" if failed else "Succeeded", ended.reason, message)
        await self._journal.settled()
        await asyncio.to_thread(self.store.put, SUMMARY_KEY, summary.model_dump_json(by_alias=True, indent=1).encode())
        return summary

    def _final(self, state: FinalState, reason: str, message: str) -> Summary:
        shown: Literal["Running", "Suspended", "Succeeded", "Failed"] = "Running" if state == "Stopped" else state
        accepted = self._verdict.accepted if self._verdict.accepted is not None else state == "Succeeded" or None
        self._verdict = Verdict(accepted=accepted, state=shown, reason=reason[:256], message=message[:4096])
        self._waiting = None
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
        over = self._verdict.state in ("Succeeded", "Failed", "Suspended")
        self._dirty = True
        if self._book is not None:
            self._book.paused = self._verdict.state != "Succeeded"
        if over:
            self._server.finish()
        if self._context is not None and (self._ephemeral or (over and not fenced)):
            await self.launcher.stop()
        if self._book is not None:
            self._book.close()
        await self._server.stop()
        if self._ledger is not None:
            if self._journal is not None and self._ledger.failure is None and self.table.ended is None:
                self._journal.write(r.Closed(time=self._wall()))
                self._journal.flush()
            if self._watch is not None:
                self._watch.cancel()
            await asyncio.to_thread(self._ledger.close)
        self._publish(last=True)

    # --- waiting and ticking

    async def _control(self, row: Row) -> Row:
        """Have a worker do what has no number, and wait for it."""
        assert self._book is not None
        self._controls.add(row)
        self._book.offer(row)
        try:
            await self._until(lambda: row.finished)
        finally:
            self._controls.discard(row)
        return row

    async def _until(self, done: Callable[[], bool]) -> None:
        """Keep everything going until `done`, looked at after each change and once a second.

        Raises:
            _Halt: asked to stop, or suspended.
        """
        assert self._book is not None
        expired_at = 0.0
        while True:
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            if self._search is not None and self._search.error is not None:
                raise self._search.error
            if self._stop_asked:
                raise _Halt("Stopped", "stopped; the same command goes on")
            self._follow_suspend()
            if not self.table.suspended and done():
                return
            now = time.monotonic()
            if now - expired_at >= TICK_SECONDS:
                expired_at = now
                self._book.expire()
            self.launcher.ensure(self._wanted())
            self._publish()
            try:
                await asyncio.wait_for(self._changed.wait(), TICK_SECONDS)
            except TimeoutError:
                self._dirty = True

    def _wanted(self) -> int:
        """Workers that have something to do."""
        if self.spec.suspend:
            return 0
        if self._search is None:
            return len(self._controls)
        return min(self.spec.parallel_trials, self.table.unfinished)

    def _follow_suspend(self) -> None:
        assert self._book is not None
        if self.spec.suspend and not self.table.suspended:
            self._write(r.Suspended(time=self._wall()))
            self._book.paused = True
            self._book.wake(every=True)
            self._verdict = Verdict(accepted=self._verdict.accepted, state="Suspended", reason=reasons.SUSPENDED)
            self._dirty = True
        elif self.table.suspended and not self.spec.suspend:
            self._write(r.Resumed(time=self._wall()))
            self._book.paused = False
            self._book.wake(every=True)
            self._verdict = Verdict(accepted=self._verdict.accepted, state="Running", reason=reasons.SEARCHING)
            self._dirty = True
        self._book.paused = self.spec.suspend
        if self.table.suspended and self._until_suspended and self._book.live == 0:
            raise _Halt("Suspended", "spec.suspend is true; set it to false and run again to go on")

    async def _watch_ledger(self, ledger: Ledger) -> None:
        self._failure = await ledger.failed()
        self._notice()

    def _notice(self) -> None:
        self._dirty = True
        self._changed.set()

    def _publish(self, last: bool = False) -> None:
        """Tell the listener, where there is news and the last time was not just now."""
        now = time.monotonic()
        if not self._dirty or (not last and now - self._published_at < TICK_SECONDS):
            return
        self._dirty, self._published_at = False, now
        self._observe()
        if self.listener is not None:
            self.listener(self.status())

    def _observe(self) -> None:
        self.metrics.observe(self.table)
        self.metrics.workers.set(self.launcher.alive())
        if self._book is not None:
            self.metrics.leases.set(self._book.live)
            self.metrics.expired.set(self._book.expired)
        if self._ledger is not None:
            stats, since = self._ledger.stats, self._ledger.lagging_since
            self.metrics.commits.set(stats.commits)
            self.metrics.commit_seconds.set(stats.commit_seconds)
            self.metrics.lag.set(0.0 if since is None else max(0.0, time.time() - since))

    def _store_waiting(self) -> Waiting | None:
        since = None if self._ledger is None else self._ledger.lagging_since
        if self._ledger is None or since is None or time.time() - since < STORE_LAG_SECONDS:
            return None
        return Waiting(reason=reasons.STORE_UNAVAILABLE, message=self._ledger.lagging_reason[:4096])

    def _eta(self) -> float | None:
        """Seconds until budget.maxTrials at this driver's rate so far."""
        done = self.table.counted_finished - self._finished_before
        if self._search is None or done < 1:
            return None
        left = self.spec.budget.max_trials - self.table.counted_finished
        return max(0, left) * (time.monotonic() - self._started) / done

    # --- what others call

    def _write(self, record: r.Record) -> None:
        assert self._journal is not None
        self._journal.write(record)

    def _row_finished(self, row: Row) -> None:
        if row.number is None:
            self._notice()
            return
        self.metrics.finished(row)
        if self._search is not None:
            self._search.row_finished(row)

    def _worker_serves(self) -> None:
        self._crashes = 0
        if self._waiting is not None:
            self._waiting = None
            self._dirty = True

    def _worker_lost(self, worker: WorkerLost) -> None:
        if worker.refused:
            version = self._server.refused_version or "another version"
            self._failure = UserError(
                f"spec.trials.image: its workers have archsearch {version}, the driver {archsearch.__version__}; give an image of "
                f"the driver's version ({worker.message})"
            )
        if self._book is not None:
            self._book.lost(worker)
        self._crashes += 1
        if self._crashes >= CRASHES:
            self._failure = WorkersFailed(
                f"{self._crashes} workers in a row ended before they did anything; the last: {worker.message}"
            )
        self._notice()

    def _launch_waits(self, waiting: LaunchWaiting | None) -> None:
        self._waiting = None if waiting is None else Waiting(reason=waiting.reason, message=waiting.message[:4096])
        self._notice()

    def _strategy(self) -> Strategy[Any]:
        found: type[Strategy[Any]] = registry.find("archsearch.strategies", self.spec.strategy.name)
        return found(found.Config.model_validate(self.spec.strategy.config))

    def _assign(self, row: Row) -> Assignment:
        spec, best = self.spec, self.table.best
        several = len(spec.objectives) > 1
        return Assignment(
            experiment=self.experiment.metadata.name,
            kind=row.kind,
            number=row.number,
            folder=row.kind.value if row.number is None else f"trials/{row.number}",
            model_space=spec.model_space,
            evaluator=spec.evaluator,
            objectives=spec.objectives,
            architecture=row.architecture,
            space_digest=None if self._space is None else self._space.digest,
            seed=row.seed,
            params=row.params,
            storage=self._storage,
            retention=spec.retention,
            keep_weights=KeepWeights.ALWAYS if several else KeepWeights.BEST,
            best_value=None if several or not best else best[0].metrics[spec.objectives[0].metric],
            isolation=spec.trials.isolation,
            threads=spec.trials.threads,
            timeout_seconds=spec.trials.timeout_seconds,
        )
