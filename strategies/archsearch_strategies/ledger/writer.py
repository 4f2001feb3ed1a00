"""The one writer of a ledger."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archsearch.errors import ArchsearchError, Fenced, StoreError, StoreUnavailable
from archsearch.spec.base import JsonObject
from archsearch.store import KeyMissing, Store
from archsearch_strategies.ledger.merger import Merger
from archsearch_strategies.ledger.probe import probe
from archsearch_strategies.ledger.reader import LedgerReader
from archsearch_strategies.ledger.segment import (
    Header,
    covering,
    encode_commit,
    encode_record,
    list_spans,
    open_segment,
    single,
)

logger = logging.getLogger(__name__)

# At most 200 commits a second: fuller segments, and a bucket's requests cost money.
MIN_INTERVAL_SECONDS = 0.005
FENCE_CHECK_SECONDS = 10.0
_LARGEST_BODY_BYTES = 4 << 20
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass
class LedgerStats:
    """What one writer did since it opened the ledger."""

    commits: int = 0
    records: int = 0
    bytes: int = 0
    commit_seconds: float = 0.0
    unavailable: int = 0  # answers that the store did not give
    merges: int = 0
    merge_seconds: float = 0.0


@dataclass
class _Entry:
    lines: list[bytes]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Ledger:
    """An opened ledger. Appends go into the next commit; one is on its way to the store at a time.

    Attributes:
        epoch: This writer's epoch, 1 for the first.
        records: All records before it, in order; empty where `open` was given `on_record`. The caller may clear it.
        lagging_since: time.time() of the first failed attempt while the store does not answer, else None.
        lagging_reason: What the store said then.
        failure: Why nothing can be appended any more: Fenced, or StoreError for a store that refuses.
    """

    def __init__(
        self, store: Store, reader: LedgerReader, header: Header, records: list[JsonObject], fence_check_seconds: float
    ) -> None:
        """Use `open`."""
        self._store = store
        self._writer = header.writer
        self._nonce = header.nonce
        self._number = header.first + 1
        self._base = reader.records
        self._fence_check_seconds = fence_check_seconds
        self.epoch = header.epoch
        self.records = records
        self.lagging_since: float | None = None
        self.lagging_reason = ""
        self.failure: ArchsearchError | None = None
        self._stats = LedgerStats()
        self._changed = threading.Condition()
        self._pending: list[_Entry] = []
        self._closing = False
        self._abandoned = threading.Event()
        self._watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[ArchsearchError]]] = []
        self._merger = Merger(store, reader.claims | {header.first})
        self._thread = threading.Thread(target=self._run, name="ledger-write", daemon=True)

    @classmethod
    def open(
        cls,
        store: Store,
        writer: str,
        *,
        on_record: Callable[[JsonObject], None] | None = None,
        fence_check_seconds: float = FENCE_CHECK_SECONDS,
    ) -> Ledger:
        """Read the ledger in a run's store, claim the next epoch, and so fence out whoever wrote before. Blocks.

        Args:
            store: The run's store; the ledger lies in its `ledger/`.
            writer: Name of this process in messages to others, for example the pod's.
            on_record: Called with each record instead of keeping it in `records`.
            fence_check_seconds: How often an idle ledger looks whether it was fenced out.

        Raises:
            LedgerDamaged: the objects contradict each other.
            StoreError: the store refuses, or lets several writers create one object (found out at the first open).
            StoreUnavailable: it does not answer; open again later.
        """
        records: list[JsonObject] = []
        sink = records.extend if on_record is None else _each(on_record)
        reader = LedgerReader(store)
        if not list_spans(store):
            probe(store)
        with _no_garbage_collection():
            _drain(reader.blocks(), sink)
        nonce = secrets.token_hex(8)
        while True:
            claim = Header(
                first=reader.number,
                last=reader.number,
                epoch=reader.epoch + 1,
                writer=writer,
                nonce=nonce,
                base=reader.records,
                records=0,
                claims=(reader.number,),
            )
            if not store.create(claim.span.key, encode_commit(claim, b"")):
                _catch_up(reader, sink)
            elif covering(store, reader.number) is None:
                break
            else:  # a commit that the listing missed, since it was merged just then, so that its key is free again
                store.delete([claim.span.key])
                _drain(reader.blocks(), sink)
        ledger = cls(store, reader, claim, records, fence_check_seconds)
        ledger._thread.start()
        ledger._merger.start()
        return ledger

    @property
    def fenced(self) -> bool:
        return isinstance(self.failure, Fenced)

    @property
    def stats(self) -> LedgerStats:
        self._stats.merges, self._stats.merge_seconds = self._merger.merges, self._merger.seconds
        return self._stats

    def append(self, *records: JsonObject) -> asyncio.Future[None]:
        """Append records; several of one call stand in one commit. To be called on an event loop.

        Returns:
            A future that is done when the records are durable, or fails as `failure` says. It need not be awaited.

        Raises:
            Fenced, StoreError: `failure`, or the ledger is closed.
            ValueError, TypeError: a record is no JSON.
        """
        lines = [encode_record(record) for record in records]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # no complaint where nobody waits
        with self._changed:
            if self.failure is not None:
                raise self.failure
            if self._closing:
                raise StoreError(f"the ledger of {self._store.uri} is closed")
            self._pending.append(_Entry(lines, loop, future))
            self._changed.notify()
        return future

    async def failed(self) -> ArchsearchError:
        """Wait until the ledger cannot be written any more, and tell why (Fenced or StoreError)."""
        loop = asyncio.get_running_loop()
        watcher: asyncio.Future[ArchsearchError] = loop.create_future()
        with self._changed:
            if self.failure is not None:
                return self.failure
            self._watchers.append((loop, watcher))
        return await watcher

    def close(self, timeout: float = 10.0) -> None:
        """Commit what is pending and stop. Blocks; what is not durable after `timeout` seconds fails."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        self._abandoned.set()
        self._merger.halt()
        self._merger.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left, self._pending = self._pending, []
        _settle(
            left,
            self.failure or StoreUnavailable(f"the ledger of {self._store.uri} was closed before it could be written"),
        )

    def _run(self) -> None:
        try:
            while True:
                entries = self._take()
                if entries is None:
                    return
                started = time.monotonic()
                if (self._commit(entries) if entries else self._look()) is False:
                    return
                if entries:
                    self._abandoned.wait(max(0.0, started + MIN_INTERVAL_SECONDS - time.monotonic()))
        except Exception as error:  # a bug must not leave the driver waiting for ever
            logger.exception("the ledger's writer failed")
            self._fail(StoreError(f"the ledger of {self._store.uri} cannot be written: {error}"))

    def _take(self) -> list[_Entry] | None:
        """The entries of the next commit, none after an idle time, None at the end. They stay pending until durable."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing, self._fence_check_seconds)
            if self._closing and not self._pending:
                return None
            size, count = 0, 0
            for entry in self._pending:
                size += sum(map(len, entry.lines))
                if count and size > _LARGEST_BODY_BYTES:
                    break
                count += 1
            return self._pending[:count]

    def _look(self) -> bool:
        """Whether this writer is still the last one; an unreachable store tells nothing."""
        try:
            if not self._store.exists(single(self._number).key):
                return True
            failure = self._verdict()
        except StoreUnavailable:
            return True
        except StoreError as error:
            failure = error
        self._fail(failure)
        return False

    def _commit(self, entries: list[_Entry]) -> bool:
        lines = [line for entry in entries for line in entry.lines]
        body = b"".join(lines)
        header = Header(
            first=self._number,
            last=self._number,
            epoch=self.epoch,
            writer=self._writer,
            nonce=self._nonce,
            base=self._base,
            records=len(lines),
            crc32=zlib.crc32(body),
        )
        data = encode_commit(header, body)
        started = time.monotonic()
        failure = self._write(header.span.key, data)
        if failure is not None:
            self._fail(failure)
            return False
        self._number += 1
        self._base += len(lines)
        self._stats.commits += 1
        self._stats.records += len(lines)
        self._stats.bytes += len(data)
        self._stats.commit_seconds += time.monotonic() - started
        with self._changed:
            del self._pending[: len(entries)]
        _settle(entries, None)
        self._merger.committed(header.span, data)
        return True

    def _write(self, key: str, data: bytes) -> ArchsearchError | None:
        """Try until the commit is durable (None) or cannot be."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                failure = None if self._store.create(key, data) else self._verdict()
            except StoreUnavailable as error:
                self._stats.unavailable += 1
                if self.lagging_since is None:
                    logger.warning("the ledger waits for its store: %s", error)
                    self.lagging_since = time.time()
                self.lagging_reason = str(error)
                if self._abandoned.wait(pause):
                    return error
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            except StoreError as error:
                failure = error
            if self.lagging_since is not None:
                logger.info("the ledger's store answers again after %.0f s", time.time() - self.lagging_since)
            self.lagging_since, self.lagging_reason = None, ""
            return failure

    def _verdict(self) -> ArchsearchError:
        """What it means that our next commit's object is there and is not ours."""
        span = single(self._number)
        header, _ = open_segment(span, self._store.get(span.key))
        if header.epoch > self.epoch:
            return Fenced(
                f"another driver ({header.writer}, epoch {header.epoch}) has taken over the ledger in "
                f"{self._store.uri}; this one ({self._writer}, epoch {self.epoch}) stops"
            )
        return StoreError(
            f"{span.key} in {self._store.uri} was written by {header.writer} (epoch {header.epoch}), which epoch "
            f"{self.epoch} had fenced out: the store does not keep conditional writes apart"
        )

    def _fail(self, failure: ArchsearchError) -> None:
        with self._changed:
            self.failure = failure
            left, self._pending = self._pending, []
            watchers, self._watchers = self._watchers, []
        _settle(left, failure)
        for loop, watcher in watchers:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, watcher, failure)
        self._merger.halt()


_Sink = Callable[[list[JsonObject]], None]


def _each(on_record: Callable[[JsonObject], None]) -> _Sink:
    def sink(block: list[JsonObject]) -> None:
        for record in block:
            on_record(record)

    return sink


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Hundreds of thousands of new dicts and no garbage: collections would take half of a replay's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _drain(blocks: Iterator[list[JsonObject]], sink: _Sink) -> None:
    for block in blocks:
        sink(block)


def _catch_up(reader: LedgerReader, sink: _Sink) -> None:
    """Read on after a refused claim: one commit a request, which is faster than a busy writer, or by a listing."""
    start = reader.number
    try:
        while True:
            _drain(reader.follow(), sink)
    except KeyMissing:
        if reader.number == start:
            _drain(reader.blocks(), sink)


def _set(watcher: asyncio.Future[ArchsearchError], failure: ArchsearchError) -> None:
    if not watcher.done():
        watcher.set_result(failure)


def _settle(entries: list[_Entry], failure: ArchsearchError | None) -> None:
    """Resolve futures on their loops, one wake-up a loop; a loop that was closed meanwhile has nobody waiting."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for entry in entries:
        by_loop.setdefault(entry.loop, []).append(entry.future)
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, futures, failure)


def _resolve(futures: list[asyncio.Future[None]], failure: ArchsearchError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
