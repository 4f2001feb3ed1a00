"""The background merging of full groups of segments, so that a long ledger stays some dozens of objects."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Set as AbstractSet

from archsearch.errors import StoreError, StoreUnavailable
from archsearch.store import KeyMissing, Store
from archsearch_strategies.ledger.segment import FAN, TOP_LEVEL, Span, list_spans, merge_segments, open_segment

logger = logging.getLogger(__name__)

_LARGEST_BYTES = 64 << 20  # groups larger than this stay as they are: bounds the memory of a merge
_RECENT_BYTES = 32 << 20  # commits kept in memory, so that their merge need not fetch them
_RETRY_SECONDS = 5.0


class Merger:
    """A thread that merges what one ledger's writer commits, and finishes what a killed one had begun.

    Parts are deleted only after the merged segment is durable. Whoever dies in between leaves parts that readers pass
    over and the next merger deletes. Commits that claim an epoch keep their own object (see Header.claims).

    Attributes:
        merges, seconds: How many segments were made, and the time that took.
    """

    def __init__(self, store: Store, claims: AbstractSet[int]) -> None:
        self._store = store
        self._claims = set(claims)
        self._sizes: dict[Span, int] = {}  # segments that no wider one holds
        self._recent: dict[Span, bytes] = {}
        self._recent_bytes = 0
        self._wake = threading.Condition()
        self._work = True  # the first round looks at what is there
        self._stopped = False
        self.merges = 0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger-merge", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def halt(self) -> None:
        """Merge nothing more; a merge under way is finished."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def committed(self, span: Span, data: bytes) -> None:
        """The writer made a commit."""
        with self._wake:
            self._sizes[span] = len(data)
            if self._recent_bytes + len(data) <= _RECENT_BYTES:
                self._recent[span] = data
                self._recent_bytes += len(data)
            if span.last == span.parent.last:
                self._work = True
                self._wake.notify()

    def _run(self) -> None:
        swept = False
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._work or self._stopped)
                if self._stopped:
                    return
                self._work = False
            try:
                if not swept:
                    self._sweep()
                    swept = True
                while not self._stopped and (ready := self._ready()):
                    for span in ready:
                        started = time.monotonic()
                        self._merge(span)
                        self.merges += 1
                        self.seconds += time.monotonic() - started
                        if self._stopped:
                            return
            except KeyMissing as error:  # a part is gone: another driver merges, and this one will soon be fenced
                logger.info("merging stops, another driver is at it: %s", error)
                return
            except StoreUnavailable as error:
                logger.warning("merging the ledger is put off: %s", error)
                with self._wake:
                    self._work = True
                    self._wake.wait_for(lambda: self._stopped, _RETRY_SECONDS)
            except StoreError:
                logger.exception("merging the ledger stops; it can still be read and written")
                return

    def _sweep(self) -> None:
        """Take stock, and delete parts of merged segments whose merger died before it did."""
        end, strays = -1, []
        found: dict[Span, int] = {}
        for span, size in list_spans(self._store).items():
            if span.last > end:
                found[span] = size
                end = span.last
            elif span.merged or span.first not in self._claims:
                strays.append(span.key)
        with self._wake:
            self._sizes = {**found, **self._sizes}
        if strays:
            self._store.delete(strays)

    def _ready(self) -> list[Span]:
        """The complete groups that are not too large."""
        with self._wake:
            groups: Counter[Span] = Counter()
            sizes: Counter[Span] = Counter()
            for span, size in self._sizes.items():
                groups[span.parent] += 1
                sizes[span.parent] += size
        ready = (span for span, count in groups.items() if count == FAN and sizes[span] <= _LARGEST_BYTES)
        return sorted(span for span in ready if span.last - span.first < FAN**TOP_LEVEL)

    def _merge(self, span: Span) -> None:
        children = span.children
        header, data = merge_segments(span, [self._part(child) for child in children])
        if not self._store.create(span.key, data):
            other, _ = open_segment(span, self._store.get(span.key))
            if (other.base, other.records, other.claims) != (header.base, header.records, header.claims):
                raise StoreError(f"{span.key} in {self._store.uri} is not what its parts say; they are kept")
        self._store.delete([child.key for child in children if child.merged or child.first not in header.claims])
        with self._wake:
            for child in children:
                del self._sizes[child]
                self._recent_bytes -= len(self._recent.pop(child, b""))
            self._sizes[span] = len(data)

    def _part(self, span: Span) -> bytes:
        with self._wake:
            data = self._recent.get(span)
        return self._store.get(span.key) if data is None else data
