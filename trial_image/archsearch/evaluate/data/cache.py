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

    trial = current()
    if trial is None:
        return make()
    about = source.stat()
    identity = f"{source.resolve()}:{about.st_size}:{about.st_mtime_ns}:{variant}"
    copy = trial.cache / f"array-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    try:
        found: NDArray[Any] = np.load(copy, mmap_mode="c", allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError):
        array = make()
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        temporary.replace(copy)
    except OSError:  # a full disk costs time, not the trial
        temporary.unlink(missing_ok=True)
    return array
