"""Checkpoints: directories of safetensors and JSON with a manifest of SHA-256 sums, which is written last.

A checkpoint exists when its manifest does. In a store the checkpoints of a trial lie side by side below one prefix; the
newest is the one whose name is last in natural order (`step-9` before `step-10`). No file is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.errors import StoreError
from archsearch.spec.base import JsonObject
from archsearch.store.base import KeyMissing, ObjectInfo, Store

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
STATE = "state.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class CheckpointDamaged(StoreError):
    """A checkpoint's files are not those that its manifest names, or it has no manifest."""


def checkpoint_name(counter: int) -> str:
    """A name for the checkpoint after `counter` steps, epochs or saves; sorts as text too."""
    return f"{counter:010d}"


def write_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: JsonObject) -> None:
    """Write a checkpoint that appears at `directory` complete or not at all. One that is there is replaced.

    Args:
        directory: The checkpoint's own directory; its parent is made.
        tensors: Any shapes, dtypes and devices. Tensors that share memory (tied weights) are written once each.
        state: JSON without NaN and infinities.

    Raises:
        ValueError, TypeError: `state` is no JSON.
    """
    from safetensors.torch import save_file

    text = json.dumps(state, allow_nan=False)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        save_file(_separate(tensors), temporary / TENSORS)
        (temporary / STATE).write_text(text)
        write_manifest(temporary)
        _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_checkpoint(directory: Path, *, verify: bool = True) -> tuple[dict[str, Tensor], JsonObject]:
    """Verify a local checkpoint and read it; tensors are on the CPU, and map the file (private pages, copied on write).

    Args:
        verify: False where the files were verified before and cannot have changed since.

    Raises:
        CheckpointDamaged: a file is missing or is not what the manifest says.
    """
    from safetensors.torch import load_file

    if verify:
        verify_directory(directory)
    try:
        state = json.loads((directory / STATE).read_text())
        return load_file(directory / TENSORS), state
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(f"{directory} does not hold {TENSORS} and {STATE}: {error}") from error


def write_manifest(directory: Path) -> None:
    """Sync all files of a directory and write their sums to its `manifest.json`."""
    files = {name: _sum(directory / name) for name in _names(directory)}
    for name in files:
        _sync(directory / name)
    temporary = directory / f".{MANIFEST}"
    temporary.write_text(json.dumps({"formatVersion": FORMAT_VERSION, "files": files}, indent=1, sort_keys=True))
    _sync(temporary)
    temporary.replace(directory / MANIFEST)
    _sync(directory)


def verify_directory(directory: Path) -> None:
    """Compare a directory's files with its manifest.

    Raises:
        CheckpointDamaged: the manifest is missing or unreadable, or a file differs.
    """
    try:
        files = _manifest_files((directory / MANIFEST).read_bytes(), str(directory))
    except OSError as error:
        raise CheckpointDamaged(f"{directory} has no readable {MANIFEST}: {error.strerror}") from error
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointDamaged(f"{directory} lacks {name}, which its manifest names")
        if _sum(path) != expected:
            raise CheckpointDamaged(f"{path} is damaged: its SHA-256 sum or size is not the manifest's")


def upload_directory(store: Store, prefix: str, directory: Path) -> None:
    """Copy a directory that has a manifest below `prefix`, the manifest last. Files that were there are replaced.

    Raises:
        CheckpointDamaged: the directory has no readable manifest.
        StoreError
    """
    try:
        files = _manifest_files((directory / MANIFEST).read_bytes(), str(directory))
    except OSError as error:
        raise CheckpointDamaged(f"{directory} has no readable {MANIFEST}: {error.strerror}") from error
    if store.exists(f"{prefix}/{MANIFEST}"):  # never an old manifest over half of the new files
        store.delete([f"{prefix}/{MANIFEST}"])
    for name in files:
        store.put_file(f"{prefix}/{name}", directory / name)
    store.put_file(f"{prefix}/{MANIFEST}", directory / MANIFEST)


def download_checkpoint(store: Store, prefix: str, directory: Path) -> bool:
    """Fetch and verify the checkpoint (or any directory with a manifest) at `prefix`; `directory` appears complete.

    Returns:
        False when there is none or it is damaged; the latter is logged.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        try:
            manifest = store.get(f"{prefix}/{MANIFEST}")
        except KeyMissing:
            return False
        for name in _manifest_files(manifest, f"{store.uri}/{prefix}"):
            store.get_file(f"{prefix}/{name}", temporary / name)
        (temporary / MANIFEST).write_bytes(manifest)
        verify_directory(temporary)
        _publish(temporary, directory)
    except (CheckpointDamaged, KeyMissing) as error:
        logger.warning("the checkpoint %s/%s is damaged and not used: %s", store.uri, prefix, error)
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def newest_checkpoint(store: Store, prefix: str, directory: Path) -> Path | None:
    """Fetch the newest sound checkpoint below `prefix` to `directory`/NAME; damaged ones are logged and passed over."""
    for name in reversed(_complete(store, prefix)[0]):
        if download_checkpoint(store, f"{prefix}/{name}", directory / name):
            return directory / name
    return None


def prune_checkpoints(store: Store, prefix: str, keep: int, protect: Collection[str] = ()) -> list[str]:
    """Delete all but the newest `keep` checkpoints below `prefix`, manifests first, so none half-deleted seems whole.

    Args:
        protect: Names, or keys ending in names, of checkpoints that stay.

    Returns:
        The names deleted. Remains of interrupted uploads older than the newest complete checkpoint go as well.
    """
    complete, objects = _complete(store, prefix)
    kept = {key.rstrip("/").rpartition("/")[2] for key in protect} | set(
        complete[max(0, len(complete) - max(keep, 0)) :]
    )
    newest = _natural(complete[-1]) if complete else None
    doomed = [name for name in objects if name not in kept and newest is not None and _natural(name) <= newest]
    keys = {name: [info.key for info in objects[name]] for name in doomed}
    manifests = [f"{prefix}/{name}/{MANIFEST}" for name in doomed]
    if doomed:
        store.delete([key for key in manifests if any(key in held for held in keys.values())])
        store.delete([key for held in keys.values() for key in held if key not in manifests])
    return doomed


def _complete(store: Store, prefix: str) -> tuple[list[str], dict[str, list[ObjectInfo]]]:
    """Names of the checkpoints with a manifest, oldest first, and the objects of all."""
    objects: dict[str, list[ObjectInfo]] = {}
    for info in store.list(f"{prefix}/"):
        name, separator, _ = info.key[len(prefix) + 1 :].partition("/")
        if separator:
            objects.setdefault(name, []).append(info)
    names = [name for name, held in objects.items() if any(info.key == f"{prefix}/{name}/{MANIFEST}" for info in held)]
    return sorted(names, key=_natural), objects


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


def _names(directory: Path) -> list[str]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [
        name for path in paths if (name := path.relative_to(directory).as_posix()) not in {MANIFEST, f".{MANIFEST}"}
    ]


def _manifest_files(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
        version, files = document["formatVersion"], document["files"]
        names = [str(name) for name in files]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(f"{where}/{MANIFEST} is no manifest: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointDamaged(
            f"{where}/{MANIFEST} has the format version {version}; this archsearch reads {FORMAT_VERSION}"
        )
    for name in names:  # a manifest from a store must not write outside its directory
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise CheckpointDamaged(f"{where}/{MANIFEST} names {name!r}, which is no plain file name")
    return dict(files)


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, no two of which share memory."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        pointer = plain.untyped_storage().data_ptr()
        if pointer in seen or plain.untyped_storage().nbytes() != plain.nbytes:
            plain = plain.clone()
            pointer = plain.untyped_storage().data_ptr()
        seen.add(pointer)
        separate[name] = plain
    return separate


def _publish(temporary: Path, directory: Path) -> None:
    temporary.chmod(0o755)
    if directory.exists():
        replaced = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        directory.rename(replaced / "old")
        temporary.rename(directory)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        temporary.rename(directory)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
