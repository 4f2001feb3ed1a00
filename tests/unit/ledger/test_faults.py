"""Stores that lose replies, go away, refuse or lie."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from support.memory_store import MemoryStore, UnsafeStore

from archsearch.errors import Fenced, StoreError, StoreUnavailable
from archsearch.store import ObjectInfo
from archsearch_strategies.ledger import Ledger, read_ledger
from archsearch_strategies.ledger import probe as probe_module
from archsearch_strategies.ledger import writer as writer_module

PATIENCE = 60


def record(number: int) -> dict[str, object]:
    return {"type": "result", "number": number}


async def fill(ledger: Ledger, numbers: range) -> None:
    for number in numbers:
        await asyncio.wait_for(ledger.append(record(number)), PATIENCE)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(probe_module, "_PAUSE_SECONDS", 0.0)


async def test_lost_replies_neither_lose_nor_double_a_record() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")
    count = itertools.count()

    def lose_every_other(operation: str, key: str) -> None:
        if operation == "create" and next(count) % 2 == 0:
            raise StoreUnavailable("the reply was lost")

    store.after = lose_every_other
    await fill(ledger, range(50))
    ledger.close()
    assert ledger.stats.unavailable >= 20
    assert not ledger.fenced
    assert list(read_ledger(store)) == [record(number) for number in range(50)]


async def test_an_unreachable_store_is_waited_for_and_shown() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()
    attempts = itertools.count()

    def refuse(operation: str, key: str) -> None:
        if next(attempts) == 1:  # the first failure has been noted
            loop.call_soon_threadsafe(refused.set)
        raise StoreUnavailable("nobody answers")

    store.before = refuse
    future = ledger.append(record(0))
    await asyncio.wait_for(refused.wait(), PATIENCE)
    assert ledger.lagging_since is not None
    assert ledger.lagging_reason == "nobody answers"
    assert not future.done()
    later = ledger.append(record(1))
    store.before = lambda operation, key: None
    await asyncio.wait_for(asyncio.gather(future, later), PATIENCE)
    assert (ledger.lagging_since, ledger.lagging_reason, ledger.failure) == (None, "", None)
    ledger.close()
    assert list(read_ledger(store)) == [record(0), record(1)]


async def test_closing_does_not_wait_for_ever() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")

    def refuse(operation: str, key: str) -> None:
        raise StoreUnavailable("nobody answers")

    store.before = refuse
    future = ledger.append(record(0))
    await asyncio.to_thread(ledger.close, 0.05)
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(future, PATIENCE)


async def test_a_store_that_refuses_ends_the_ledger() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")

    def refuse(operation: str, key: str) -> None:
        raise StoreError("the secret key is wrong")

    store.before = refuse
    with pytest.raises(StoreError, match="secret key is wrong"):
        await asyncio.wait_for(ledger.append(record(0)), PATIENCE)
    assert (await asyncio.wait_for(ledger.failed(), PATIENCE)) is ledger.failure
    assert not ledger.fenced
    with pytest.raises(StoreError, match="secret key is wrong"):
        ledger.append(record(1))
    ledger.close()


def test_a_store_that_lets_racers_all_win_is_refused() -> None:
    store = UnsafeStore()
    with pytest.raises(StoreError, match=r"unsafe for a ledger: \d+ of 16 writers.*If-None-Match"):
        Ledger.open(store, "one")
    assert store.objects == {}


async def test_a_store_that_was_probed_is_not_probed_again() -> None:
    store = MemoryStore()
    Ledger.open(store, "one").close()
    keys: list[str] = []
    store.before = lambda operation, key: keys.append(key)
    Ledger.open(store, "two").close()
    assert not [key for key in keys if "probe" in key]


async def test_a_listing_that_misses_what_was_merged_does_not_mislead_an_opener() -> None:
    """The newest group is merged while the listing runs: neither its parts nor the merged segment are in it."""
    store = MemoryStore()
    first = Ledger.open(store, "one")
    await fill(first, range(31))  # with the claim commits 0 to 31, which merge completely
    first.close()
    tail = "ledger/000000000016-000000000031.jsonl.gz"
    assert tail in store.objects
    lies = iter([True])
    listing = store.list

    def stale(prefix: str = "") -> list[ObjectInfo]:
        missing = tail if next(lies, False) else None
        return [info for info in listing(prefix) if info.key != missing]

    store.list = stale  # type: ignore[method-assign]
    # The emptiness check before the replay must not use up the lie.
    lies = itertools.chain([False], [True])
    second = Ledger.open(store, "two")
    assert second.records == [record(number) for number in range(31)]
    assert "ledger/000000000016.jsonl" not in store.objects
    await fill(second, range(31, 40))
    third = Ledger.open(store, "three")
    assert third.records == [record(number) for number in range(40)]
    with pytest.raises(Fenced):
        await fill(second, range(1))
    second.close()
    third.close()


async def test_a_reader_that_misses_a_merged_part_lists_again() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")
    await fill(ledger, range(10))
    old = store.list("ledger/")
    await fill(ledger, range(10, 40))
    ledger.close()
    listing = store.list
    answers = iter([old])
    store.list = lambda prefix="": next(answers, None) or listing(prefix)  # type: ignore[method-assign]
    assert list(read_ledger(store)) == [record(number) for number in range(40)]


async def test_damage_is_told_apart_from_an_end() -> None:
    store = MemoryStore()
    ledger = Ledger.open(store, "one")
    await fill(ledger, range(5))
    ledger.close()
    key = "ledger/000000000003.jsonl"
    good = store.objects[key]
    store.objects[key] = good.replace(b'"number":2', b'"number":7')
    with pytest.raises(StoreError, match=r"000000000003.*CRC-32"):
        list(read_ledger(store))
    store.objects[key] = good.replace(b'"formatVersion":1', b'"formatVersion":2')
    with pytest.raises(StoreError, match="format version 2"):
        list(read_ledger(store))
    store.objects[key] = b"nonsense"
    with pytest.raises(StoreError, match="no segment"):
        list(read_ledger(store))


def test_a_hole_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archsearch_strategies.ledger.reader._PAUSE_SECONDS", 0.0)
    store = MemoryStore()

    async def write() -> None:
        ledger = Ledger.open(store, "one")
        await fill(ledger, range(5))
        ledger.close()

    asyncio.run(write())
    del store.objects["ledger/000000000003.jsonl"]
    with pytest.raises(StoreError, match="lacks commit 3"):
        list(read_ledger(store))
