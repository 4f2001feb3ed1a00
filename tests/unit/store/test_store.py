"""What both stores must do alike."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from archsearch.errors import StoreError
from archsearch.store import KeyMissing, Store


def test_objects_come_back_as_they_were_written(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    store.put("a/b", data)
    assert store.get("a/b") == data
    store.put("a/b", b"")
    assert store.get("a/b") == b""
    (tmp_path / "in").write_bytes(data)
    store.put_file("a/file", tmp_path / "in")
    store.get_file("a/file", tmp_path / "new" / "out")
    assert (tmp_path / "new" / "out").read_bytes() == data
    assert os.listdir(tmp_path / "new") == ["out"]


def test_listing_is_sorted_by_key_and_takes_any_prefix(store: Store) -> None:
    for key in ("b", "a/2", "a/10", "ab", "a/c/d"):
        store.put(key, key.encode())
    assert [(info.key, info.size) for info in store.list()] == [
        ("a/10", 4),
        ("a/2", 3),
        ("a/c/d", 5),
        ("ab", 2),
        ("b", 1),
    ]
    assert [info.key for info in store.list("a/")] == ["a/10", "a/2", "a/c/d"]
    assert [info.key for info in store.list("a")] == ["a/10", "a/2", "a/c/d", "ab"]
    assert [info.key for info in store.list("a/c/")] == ["a/c/d"]
    assert store.list("nothing/") == []
    assert all(info.modified > 1_600_000_000 for info in store.list())


def test_missing_objects(store: Store, tmp_path: Path) -> None:
    store.put("folder/x", b"")
    for key in ("missing", "folder", "folder/y", "folder/x/z"):
        with pytest.raises(KeyMissing, match=key):
            store.get(key)
        with pytest.raises(KeyMissing):
            store.get_file(key, tmp_path / "out")
        assert not store.exists(key)
    assert not (tmp_path / "out").exists()
    assert store.exists("folder/x")
    store.delete(["folder/x", "missing"])
    assert store.list() == []


def test_deleting_more_objects_than_one_request_takes(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"n/{number}", b"x"), range(50)))
    store.delete([f"n/{number}" for number in range(1200)])
    assert store.list() == []


def test_create_writes_once(store: Store) -> None:
    assert store.create("k", b"first")
    assert not store.create("k", b"second")
    assert store.create("k", b"first"), "our own write, whose reply was lost"
    assert store.get("k") == b"first"
    store.delete(["k"])
    assert store.create("k", b"third")


def test_of_racing_creators_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        for turn in range(3):
            won = list(pool.map(lambda racer, turn=turn: store.create(f"race/{turn}", b"%d" % racer), range(16)))
            assert sum(won) == 1
            assert store.get(f"race/{turn}") == b"%d" % won.index(True)


def test_child_is_the_same_store_below_a_prefix(store: Store) -> None:
    child = store.child("x").child("y/z")
    child.put("k", b"1")
    assert store.get("x/y/z/k") == b"1"
    assert [info.key for info in child.list()] == ["k"]
    assert child.uri == f"{store.uri}/x/y/z"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a/", "a\0b"])
def test_keys_that_leave_the_store_are_refused(store: Store, key: str) -> None:
    for use in (
        lambda: store.put(key, b""),
        lambda: store.get(key),
        lambda: store.delete([key]),
        lambda: store.child(key),
    ):
        with pytest.raises(StoreError, match="is no key"):
            use()


def test_check_passes_and_writes_nothing(store: Store) -> None:
    store.check()
    assert store.list() == []


def test_writers_deleters_and_listers_at_once(store: Store) -> None:
    """Folders that become empty vanish under writers' feet; nobody may notice."""

    def work(worker: int) -> None:
        for turn in range(15):
            key = f"shared/{turn % 3}/{worker}"
            store.put(key, b"x")
            store.list("shared/")
            assert store.get(key) == b"x"
            store.delete([key])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.list() == []
