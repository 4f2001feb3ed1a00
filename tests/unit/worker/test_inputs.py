"""The worker's cache of checkpoints that trials begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsearch.errors import StoreError
from archsearch.store import checkpoint as checkpoints
from archsearch.store import open_store
from archsearch.store.base import Store
from archsearch.store.checkpoint import upload_directory, write_manifest
from archsearch.store.directory import DirectoryStore
from archsearch.worker.inputs import KEPT, InputCache


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = open_store(str(tmp_path / "store"))
    for number in range(4):
        folder = tmp_path / f"made-{number}"
        folder.mkdir()
        (folder / "tensors.safetensors").write_bytes(b"x" * number)
        write_manifest(folder)
        upload_directory(found, f"trials/{number}/weights", folder)
    return found


def test_each_is_fetched_and_verified_once_and_the_newest_are_kept(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    verified: list[Path] = []
    get_file, verify = DirectoryStore.get_file, checkpoints.verify_directory

    def getting(self: DirectoryStore, key: str, path: Path) -> None:
        fetched.append(key.split("/")[1])
        get_file(self, key, path)

    def verifying(directory: Path) -> None:
        verified.append(directory)
        verify(directory)

    monkeypatch.setattr(DirectoryStore, "get_file", getting)
    monkeypatch.setattr(checkpoints, "verify_directory", verifying)
    cache = InputCache(tmp_path / "inputs")
    first = cache.fetch(store, "trials/0/weights")
    second = cache.fetch(store, "trials/1/weights/")
    assert cache.fetch(store, "trials/0/weights") == first
    assert (fetched, len(verified)) == (["0", "1"], 2)
    third = cache.fetch(store, "trials/2/weights")  # the second was used longest ago
    assert set((tmp_path / "inputs").iterdir()) == {first, third}
    assert len({first, second, third}) == 3
    assert KEPT == 2
    assert (third / "tensors.safetensors").read_bytes() == b"xx"
    assert (third / "tensors.safetensors").stat().st_mode & 0o777 == 0o400
    cache.fetch(store, "trials/1/weights")
    assert fetched == ["0", "1", "2", "1"]


def test_one_that_is_missing_or_damaged_is_named(tmp_path: Path, store: Store) -> None:
    cache = InputCache(tmp_path / "inputs")
    with pytest.raises(StoreError, match=r"'trials/9/weights'.* not in the store"):
        cache.fetch(store, "trials/9/weights")
    cache.fetch(store, "trials/3/weights")
    store.put("trials/2/weights/tensors.safetensors", b"no")
    store.delete(["trials/3/weights/tensors.safetensors"])
    store.put("trials/2/weights/tensors.safetensors", b"zz")
    with pytest.raises(StoreError, match=r"'trials/2/weights'.* damaged"):
        cache.fetch(store, "trials/2/weights")
    assert len(list((tmp_path / "inputs").iterdir())) == 1
