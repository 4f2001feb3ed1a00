"""Reading a ledger, also while a driver writes and merges it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice

from archsearch.spec.base import JsonObject
from archsearch.store import KeyMissing, Store
from archsearch_strategies.ledger.segment import (
    LedgerDamaged,
    Span,
    covering,
    list_spans,
    open_segment,
    read_records,
    single,
)

_RELISTS = 20  # listings in a row that brought nothing new, before a hole is taken for damage
_PAUSE_SECONDS = 0.1
_AHEAD = 6  # objects fetched ahead of the one that is parsed


def read_ledger(store: Store) -> Iterator[JsonObject]:
    """All records of the ledger in a run's store, in order; none where there is no ledger.

    Raises:
        LedgerDamaged, StoreError, StoreUnavailable
    """
    return LedgerReader(store).poll()


class LedgerReader:
    """A place in a ledger. `poll` goes on from it.

    Attributes:
        number: Number of the next commit.
        records: Records read so far.
        epoch, writer: Of the last commit that was read; 0 and empty before the first.
        claims: Numbers of the commits read so far that claim an epoch.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.number = 0
        self.records = 0
        self.epoch = 0
        self.writer = ""
        self.claims: set[int] = set()

    def poll(self) -> Iterator[JsonObject]:
        """The records that were written since the last call. What is not taken from the iterator is not offered again.

        Raises:
            LedgerDamaged, StoreError, StoreUnavailable
        """
        return chain.from_iterable(self.blocks())

    def blocks(self) -> Iterator[list[JsonObject]]:
        """As `poll`, many records at a time.

        A listing is no snapshot: a commit that was merged meanwhile is missing, perhaps without its heir. Then it is
        listed again.

        Raises:
            LedgerDamaged, StoreError, StoreUnavailable
        """
        idle = 0
        while True:
            start = self.number
            spans, hole = plan(list_spans(self._store), self.number)
            try:
                for span, future in _fetch(self._store, spans):
                    yield from self._take(span, future.result())
            except KeyMissing:
                hole = True
            if not hole:
                return
            idle = 0 if self.number > start else idle + 1
            if idle == _RELISTS:
                raise LedgerDamaged(
                    f"the ledger of {self._store.uri} lacks commit {self.number}, though later ones are there"
                )
            time.sleep(_PAUSE_SECONDS * min(idle, 5))

    def follow(self) -> Iterator[list[JsonObject]]:
        """The records of the very next commit, without a listing.

        Raises:
            KeyMissing: it has no object of its own.
        """
        span = single(self.number)
        data = self._store.get(span.key)
        header, _ = open_segment(span, data)
        if header.claims and covering(self._store, self.number) is not None:
            raise KeyMissing(f"{span.key} is a void claim")
        yield from self._take(span, data)

    def _take(self, span: Span, data: bytes) -> Iterator[list[JsonObject]]:
        header, body = open_segment(span, data)
        if header.base > self.records or header.epoch < self.epoch:
            raise LedgerDamaged(
                f"{span.key} in {self._store.uri} (epoch {header.epoch}, from record {header.base}) does not continue "
                f"what stands before it (epoch {self.epoch}, {self.records} records): two drivers wrote at once"
            )
        for block in read_records(header, body, self.records - header.base):
            self.records += len(block)
            yield block
        self.number = span.last + 1
        self.epoch, self.writer = header.epoch, header.writer
        self.claims.update(header.claims)


def plan(spans: Iterable[Span], number: int) -> tuple[list[Span], bool]:
    """The widest segments that hold the commits from `number` on, in order, and whether a hole follows them."""
    chosen: list[Span] = []
    for span in spans:  # sorted by first, wider before narrower
        if span.first > number:
            return chosen, True
        if span.last >= number:
            chosen.append(span)
            number = span.last + 1
    return chosen, False


def _fetch(store: Store, spans: list[Span]) -> Iterator[tuple[Span, Future[bytes]]]:
    """The objects in order, the next few already on their way."""
    if not spans:
        return
    with ThreadPoolExecutor(min(_AHEAD, len(spans)), thread_name_prefix="ledger-read") as pool:
        waiting = iter(spans)
        queue = [(span, pool.submit(store.get, span.key)) for span in islice(waiting, _AHEAD)]
        try:
            while queue:
                span, future = queue.pop(0)
                yield span, future
                queue += [(later, pool.submit(store.get, later.key)) for later in islice(waiting, 1)]
        finally:
            for _, future in queue:
                future.cancel()
