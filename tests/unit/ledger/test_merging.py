"""Merging: complete, crash-safe at every step, and down to some dozens of objects."""

from __future__ import annotations

import asyncio
import os
import time
import zlib

import pytest
from support.memory_store import MemoryStore

from archsearch.errors import StoreError
from archsearch.store import Store
from archsearch_strategies.ledger import Ledger, LedgerReader, read_ledger
from archsearch_strategies.ledger.merger import Merger
from archsearch_strategies.ledger.segment import Header, Span, encode_commit, encode_record, list_spans

CLAIMS = {0, 5, 40, 255}


def commits(store: Store, count: int, padding: int = 0) -> list[dict[str, object]]:
    """Write commits as drivers do, with a new epoch at each of CLAIMS; the records of all."""
    records: list[dict[str, object]] = []
    epoch = 0
    for number in range(count):
        claim = number in CLAIMS
        epoch += claim
        new = (
            []
            if claim
            else [
                {"type": "result", "number": number, "part": part, "x": os.urandom(padding).hex()}
                for part in range(number % 3)
            ]
        )
        body = b"".join(map(encode_record, new))
        header = Header(
            first=number,
            last=number,
            epoch=epoch,
            writer="w",
            nonce="n",
            base=len(records),
            records=len(new),
            claims=(number,) if claim else (),
            crc32=zlib.crc32(body),
        )
        assert store.create(header.span.key, encode_commit(header, body))
        records += new
    return records


def merge_all(store: Store, expected: int) -> None:
    """Merge until `expected` segments were made."""
    merger = Merger(store, CLAIMS)
    merger.start()
    deadline = time.monotonic() + 60
    while merger.merges < expected and time.monotonic() < deadline:
        time.sleep(0.005)
    merger.halt()
    merger.join(60)
    assert merger.merges == expected


def test_full_groups_of_groups_are_merged(store: Store) -> None:
    records = commits(store, 300)
    merge_all(store, 18 + 1)
    spans = list(list_spans(store))
    whole = [Span(0, 255), Span(256, 271), Span(272, 287), *(Span(n, n) for n in range(288, 300))]
    assert spans == sorted([*whole, *(Span(n, n) for n in CLAIMS)], key=lambda span: (span.first, -span.last))
    assert list(read_ledger(store)) == records
    reader = LedgerReader(store)
    list(reader.poll())
    assert (reader.number, reader.records, reader.epoch, reader.claims) == (300, len(records), 4, CLAIMS)


class Dead(StoreError):
    """The process is gone."""


def test_a_merger_that_dies_anywhere_loses_and_doubles_nothing() -> None:
    store = MemoryStore()
    records = commits(store, 256)
    before = dict(store.objects)
    step = 0
    while True:
        store = MemoryStore(dict(before))
        left = step

        def die(operation: str, key: str) -> None:
            nonlocal left
            if operation in {"create", "delete"}:
                left -= 1
                if left < 0:
                    raise Dead("killed")

        store.before = die
        merger = Merger(store, CLAIMS)
        merger.start()
        if left >= 0:
            # The thread ends when it is killed, or has nothing left to do.
            deadline = time.monotonic() + 60
            while left >= 0 and Span(0, 255) not in merger._sizes and time.monotonic() < deadline:
                time.sleep(0.0005)
        merger.halt()
        merger.join(60)
        assert list(read_ledger(store)) == records, f"after {step} steps"
        killed = left < 0
        store.before = lambda operation, key: None
        if step % 16 == 0 or not killed:  # the next driver finishes the work
            ledger = Ledger.open(store, "next")
            assert ledger.records == records
            deadline = time.monotonic() + 60
            wanted = {Span(0, 255), Span(256, 256), *(Span(n, n) for n in CLAIMS)}
            while set(list_spans(store)) != wanted and time.monotonic() < deadline:
                time.sleep(0.001)
            ledger.close()
            assert set(list_spans(store)) == wanted
        if not killed:
            assert step > 17 + 16 + 200
            return
        step += 7 if step > 20 else 1


def test_twenty_thousand_commits_become_some_dozens_of_objects() -> None:
    store = MemoryStore()
    records = commits(store, 20_000)
    merge_all(store, sum(20_000 // 16**level for level in range(1, 5)))
    assert len(store.objects) < 80
    assert sum(1 for _ in read_ledger(store)) == len(records)


def test_large_groups_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archsearch_strategies.ledger.merger._LARGEST_BYTES", 20_000)
    store = MemoryStore()
    records = commits(store, 256, padding=100)
    merge_all(store, 16)
    assert list(read_ledger(store)) == records


def test_parts_that_contradict_each_other_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    commits(store, 16)
    header = Header(first=7, last=7, epoch=1, writer="w", nonce="n", base=3, records=0)
    store.objects["ledger/000000000007.jsonl"] = encode_commit(header, b"")
    merger = Merger(store, CLAIMS)
    merger.start()
    merger.join(60)
    assert "two drivers wrote at once" in caplog.text
    assert len(store.objects) == 16


async def test_two_ledgers_merge_the_same_range_the_same_way() -> None:
    """A driver that was fenced a moment ago may still merge: what it leaves must be what the next one makes."""
    store = MemoryStore()
    records = commits(store, 32)
    stale = MemoryStore(dict(store.objects))
    merge_all(store, 2)
    merge_all(stale, 2)
    assert store.objects == stale.objects
    ledger = await asyncio.to_thread(Ledger.open, store, "next")
    ledger.close()
    assert ledger.records == records
