"""Appending, replaying, fencing and reading, on both stores."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from archsearch.errors import Fenced, StoreError
from archsearch.store import Store
from archsearch_strategies.ledger import Ledger, LedgerReader, read_ledger

PATIENCE = 60


def record(number: int) -> dict[str, object]:
    return {"type": "result", "number": number, "text": "näs\nline", "nested": {"values": [0.1, None, True]}}


async def fill(ledger: Ledger, numbers: range, each: int = 1) -> None:
    """Append so that there is about one commit for `each` records."""
    for number in numbers:
        future = ledger.append(record(number))
        if number % each == 0:
            await asyncio.wait_for(future, PATIENCE)
    await asyncio.wait_for(future, PATIENCE)


async def test_what_was_appended_is_replayed_in_order(store: Store) -> None:
    assert list(read_ledger(store)) == []
    first = Ledger.open(store, "one")
    assert (first.epoch, first.records) == (1, [])
    await fill(first, range(60), each=2)
    assert list(read_ledger(store)) == [record(number) for number in range(60)]
    first.close()
    second = Ledger.open(store, "two")
    assert (second.epoch, second.records) == (2, [record(number) for number in range(60)])
    await fill(second, range(60, 100))
    second.close()
    seen: list[object] = []
    third = Ledger.open(store, "three", on_record=seen.append)
    third.close()
    assert (third.epoch, third.records) == (3, [])
    assert seen == [record(number) for number in range(100)]


async def test_appends_share_commits(store: Store) -> None:
    ledger = Ledger.open(store, "one")
    futures = [ledger.append(record(number)) for number in range(2000)]
    await asyncio.wait_for(asyncio.gather(*futures), PATIENCE)
    ledger.close()
    assert ledger.stats.records == 2000
    assert ledger.stats.commits < 20
    assert ledger.stats.bytes > 2000 * 50
    assert list(read_ledger(store)) == [record(number) for number in range(2000)]


async def test_records_of_one_call_stand_in_one_commit(store: Store) -> None:
    ledger = Ledger.open(store, "one")
    await asyncio.wait_for(ledger.append(*(record(number) for number in range(3))), PATIENCE)
    ledger.close()
    assert (ledger.stats.commits, ledger.stats.records) == (1, 3)


async def test_a_second_driver_fences_the_first(store: Store) -> None:
    first = Ledger.open(store, "one")
    await fill(first, range(5))
    second = Ledger.open(store, "two")
    assert second.epoch == 2
    futures = [first.append(record(100)), first.append(record(101))]
    for future in futures:
        with pytest.raises(Fenced, match=r"another driver \(two, epoch 2\)"):
            await asyncio.wait_for(future, PATIENCE)
    assert first.fenced
    assert isinstance(await asyncio.wait_for(first.failed(), PATIENCE), Fenced)
    with pytest.raises(Fenced):
        first.append(record(102))
    await fill(second, range(5, 8))
    first.close()
    second.close()
    assert list(read_ledger(store)) == [record(number) for number in range(8)]


async def test_an_idle_driver_notices_that_it_is_fenced(store: Store) -> None:
    first = Ledger.open(store, "one", fence_check_seconds=0.05)
    watch = asyncio.create_task(first.failed())
    second = Ledger.open(store, "two")
    assert isinstance(await asyncio.wait_for(watch, PATIENCE), Fenced)
    first.close()
    second.close()


async def test_a_driver_that_sleeps_through_merges_is_still_fenced(store: Store) -> None:
    """The number that it would write next was merged and deleted long ago but for the claim that fences it."""
    first = Ledger.open(store, "one", fence_check_seconds=3600)
    await fill(first, range(3))
    second = Ledger.open(store, "two")
    await fill(second, range(3, 80))
    second.close()
    merged = [info.key for info in store.list("ledger/") if info.key.endswith(".gz")]
    assert merged
    with pytest.raises(Fenced):
        await asyncio.wait_for(first.append(record(999)), PATIENCE)
    first.close()
    assert list(read_ledger(store)) == [record(number) for number in range(80)]


def test_racing_openers_get_epochs_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda number: Ledger.open(store, f"w{number}"), range(4)))
    assert sorted(ledger.epoch for ledger in ledgers) == [1, 2, 3, 4]

    async def try_all() -> list[int]:
        survivors = []
        for ledger in ledgers:
            try:
                await asyncio.wait_for(ledger.append(record(ledger.epoch)), PATIENCE)
                survivors.append(ledger.epoch)
            except Fenced:
                continue
        return survivors

    assert asyncio.run(try_all()) == [4]
    for ledger in ledgers:
        ledger.close()
    assert list(read_ledger(store)) == [record(4)]


async def test_a_busy_writer_can_be_taken_over(store: Store) -> None:
    first = Ledger.open(store, "one")
    acknowledged = []

    async def hammer() -> None:
        for number in itertools.count():
            await first.append(record(number))
            acknowledged.append(number)

    task = asyncio.create_task(hammer())
    await asyncio.wait_for(first.append({"type": "started"}), PATIENCE)
    second = await asyncio.wait_for(asyncio.to_thread(Ledger.open, store, "two"), PATIENCE)
    with pytest.raises(Fenced):
        await asyncio.wait_for(task, PATIENCE)
    kept = [entry["number"] for entry in second.records if entry["type"] == "result"]
    assert kept == list(range(len(kept)))
    assert kept[: len(acknowledged)] == acknowledged
    first.close()
    second.close()


async def test_readers_see_a_growing_prefix_while_a_driver_writes_and_merges(store: Store) -> None:
    ledger = Ledger.open(store, "one")
    stop = threading.Event()
    counts: list[int] = []

    def read() -> None:
        reader = LedgerReader(store)
        seen: list[object] = []
        while not stop.is_set():
            whole = list(read_ledger(store))
            assert whole == [record(number) for number in range(len(whole))]
            seen += list(reader.poll())
            assert seen == [record(number) for number in range(len(seen))]
            assert len(seen) >= len(whole)
            counts.append(len(seen))
        seen += list(reader.poll())
        assert len(seen) == 300

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        await fill(ledger, range(300), each=2)
    finally:
        stop.set()
        await asyncio.wait_for(reading, PATIENCE)
        ledger.close()
    assert counts == sorted(counts)


async def test_what_is_no_record_is_refused_at_once(store: Store) -> None:
    ledger = Ledger.open(store, "one")
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append({"type": "x", "value": float("nan")})
    with pytest.raises(TypeError):
        ledger.append({"type": "x", "value": object()})
    ledger.close()
    with pytest.raises(StoreError, match="is closed"):
        ledger.append(record(1))
    assert list(read_ledger(store)) == []
