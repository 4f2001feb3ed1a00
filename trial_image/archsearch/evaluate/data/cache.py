"""Arrays that are costly to read, unpacked once a worker: later trials map the copy in the worker's cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.trial.context import current

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cached_array(source: Path, variant: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What `make` gives, or the copy of it that an earlier trial of this worker kept.

    Args:
        source: The file or folder that the array comes from; changed, it is read anew.
        variant: What else the array depends on.
    """
    import numpy as np

    copy = _copy(source, variant)
    if copy is None:
        return make()
    if (found := _mapped(copy)) is not None:
        return found
    array = make()
    temporary = _temporary(copy)
    try:
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        temporary.replace(copy)
    except OSError:  # a full disk costs time, not the trial
        temporary.unlink(missing_ok=True)
    return array


def cached_bytes(
    source: Path, variant: str, shape: tuple[int, ...], fill: Callable[[NDArray[Any]], None]
) -> NDArray[Any]:
    """As `cached_array` for a uint8 array of this shape, which `fill` writes: on disk, as it may exceed the memory."""
    import numpy as np

    copy = _copy(source, variant)
    if copy is None:
        array: NDArray[Any] = np.empty(shape, dtype=np.uint8)
        fill(array)
        return array
    if (found := _mapped(copy)) is not None:
        return found
    temporary = _temporary(copy)
    try:
        on_disk = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        fill(on_disk)
        on_disk.flush()
        temporary.replace(copy)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return on_disk


def _copy(source: Path, variant: str) -> Path | None:
    trial = current()
    if trial is None:
        return None
    about = source.stat()
    identity = f"{source.resolve()}:{about.st_size}:{about.st_mtime_ns}:{variant}"
    return trial.cache / f"array-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"


def _mapped(copy: Path) -> NDArray[Any] | None:
    import numpy as np

    try:
        found: NDArray[Any] = np.load(copy, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found


def _temporary(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.{os.getpid()}")
