"""Checkpoints: whole or not at all, verified, and the one before where the newest is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.memory_store import MemoryStore

from archsearch.errors import StoreError
from archsearch.store import Store
from archsearch.store.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    CheckpointDamaged,
    checkpoint_name,
    download_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    upload_directory,
    write_checkpoint,
)

PREFIX = "trials/7/checkpoints"


def checkpoint(directory: Path, number: int) -> Path:
    path = directory / checkpoint_name(number)
    write_checkpoint(path, {"weight": torch.full((2, 3), float(number))}, {"epoch": number})
    return path


def fill(store: Store, directory: Path, count: int) -> None:
    for number in range(count):
        upload_directory(store, f"{PREFIX}/{checkpoint_name(number)}", checkpoint(directory, number))


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    shared = torch.arange(12, dtype=torch.float32)
    tensors = {
        "a.weight": shared.view(3, 4),
        "tied.weight": shared.view(3, 4),
        "part": shared[4:8],
        "transposed": shared.view(3, 4).t(),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "steps": torch.tensor(7),
        "none": torch.empty(0, 3),
        "gradient": torch.nn.Parameter(torch.ones(2)),
    }
    state = {"epoch": 3, "rng": [1, 2], "name": "näs"}
    write_checkpoint(tmp_path / "c", tensors, state)
    found, read = read_checkpoint(tmp_path / "c")
    assert read == state
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_checkpoint_replaces_one_of_its_name(tmp_path: Path) -> None:
    for number in (1, 2):
        write_checkpoint(tmp_path / "c", {"w": torch.tensor(number)}, {"number": number})
    assert read_checkpoint(tmp_path / "c")[1] == {"number": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_state_that_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_checkpoint(tmp_path / "c", {}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "version", "no manifest"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    path = checkpoint(tmp_path, 1)
    data = bytearray((path / TENSORS).read_bytes())
    match damage:
        case "flip":
            data[-1] ^= 1
            (path / TENSORS).write_bytes(data)
        case "cut":
            (path / TENSORS).write_bytes(data[:-1])
        case "remove":
            (path / STATE).unlink()
        case "manifest":
            (path / MANIFEST).write_text("[]")
        case "version":
            (path / MANIFEST).write_text(json.dumps({"formatVersion": 9, "files": {}}))
        case "no manifest":
            (path / MANIFEST).unlink()
    with pytest.raises(CheckpointDamaged, match=path.name):
        read_checkpoint(path)


def test_the_newest_is_fetched(store: Store, tmp_path: Path) -> None:
    assert newest_checkpoint(store, PREFIX, tmp_path / "down") is None
    fill(store, tmp_path / "up", 12)
    found = newest_checkpoint(store, PREFIX, tmp_path / "down")
    assert found == tmp_path / "down" / checkpoint_name(11)
    assert read_checkpoint(found)[1] == {"epoch": 11}


def test_names_without_leading_zeros_are_ordered_by_number(tmp_path: Path) -> None:
    store = MemoryStore()
    for name in ("step-9", "step-10", "step-2"):
        write_checkpoint(tmp_path / name, {}, {"name": name})
        upload_directory(store, f"c/{name}", tmp_path / name)
    found = newest_checkpoint(store, "c", tmp_path / "down")
    assert found is not None
    assert found.name == "step-10"


def test_a_damaged_one_is_passed_over_and_logged(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, tmp_path / "up", 4)
    store.put(f"{PREFIX}/{checkpoint_name(3)}/{TENSORS}", b"rubbish")
    store.delete([f"{PREFIX}/{checkpoint_name(2)}/{STATE}"])
    found = newest_checkpoint(store, PREFIX, tmp_path / "down")
    assert found is not None
    assert read_checkpoint(found)[1] == {"epoch": 1}
    assert caplog.text.count("is damaged and not used") == 2
    assert [path.name for path in (tmp_path / "down").iterdir()] == [checkpoint_name(1)]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ".hidden", "manifest.json", ""])
def test_a_manifest_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    store = MemoryStore({f"c/{MANIFEST}": json.dumps({"formatVersion": 1, "files": {name: {}}}).encode()})
    assert not download_checkpoint(store, "c", tmp_path / "down" / "c")
    assert list(tmp_path.rglob("*")) == [tmp_path / "down"]


def test_an_upload_that_dies_is_no_checkpoint(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "up", 1)
    for steps in range(3):
        store = MemoryStore()
        left = steps

        def die(operation: str, key: str) -> None:
            nonlocal left
            left -= operation == "put"
            if left < 0:
                raise StoreError("killed")

        store.before = die
        with pytest.raises(StoreError, match="killed"):
            upload_directory(store, f"{PREFIX}/a", path)
        store.before = lambda operation, key: None
        assert len(store.objects) == steps
        assert newest_checkpoint(store, PREFIX, tmp_path / "down") is None


def test_pruning_keeps_the_newest_and_the_protected(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path / "up", 6)
    store.put(f"{PREFIX}/{checkpoint_name(1)}x/{TENSORS}", b"an upload that died")
    store.put(f"{PREFIX}/{checkpoint_name(9)}/{TENSORS}", b"an upload under way")
    store.put("trials/8/checkpoints/a/manifest.json", b"another trial's")
    protect = [checkpoint_name(0), f"{PREFIX}/{checkpoint_name(3)}"]
    deleted = prune_checkpoints(store, PREFIX, 2, protect)
    assert sorted(deleted) == [checkpoint_name(1), f"{checkpoint_name(1)}x", checkpoint_name(2)]
    left = {info.key.removeprefix(f"{PREFIX}/").partition("/")[0] for info in store.list(f"{PREFIX}/")}
    assert left == {checkpoint_name(number) for number in (0, 3, 4, 5, 9)}
    assert store.exists("trials/8/checkpoints/a/manifest.json")
    assert prune_checkpoints(store, PREFIX, 2, protect) == []
    found = newest_checkpoint(store, PREFIX, tmp_path / "down")
    assert found is not None
    assert read_checkpoint(found)[1] == {"epoch": 5}


def test_pruning_that_dies_leaves_whole_checkpoints_or_none(tmp_path: Path) -> None:
    full = MemoryStore()
    fill(full, tmp_path / "up", 3)
    for steps in range(6):
        store = MemoryStore(dict(full.objects))
        left = steps

        def die(operation: str, key: str) -> None:
            nonlocal left
            left -= operation == "delete"
            if left < 0:
                raise StoreError("killed")

        store.before = die
        with pytest.raises(StoreError, match="killed"):
            prune_checkpoints(store, PREFIX, 1)
        store.before = lambda operation, key: None
        for number in range(3):
            prefix = f"{PREFIX}/{checkpoint_name(number)}"
            if store.exists(f"{prefix}/{MANIFEST}"):
                assert download_checkpoint(store, prefix, tmp_path / f"down-{steps}" / str(number))
