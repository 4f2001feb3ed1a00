"""Checkpoints that trials begin with: each is fetched and verified once a worker, and then mapped by every trial."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from archsearch.errors import StoreError
from archsearch.store import Store
from archsearch.store.base import KeyMissing
from archsearch.store.checkpoint import MANIFEST, download_checkpoint

KEPT = 2


class InputCache:
    """The newest `KEPT` checkpoints, read-only. Of one worker, which runs one trial at a time.

    Args:
        folder: of this worker alone; made here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[Path] = []  # the last one used is the last

    def fetch(self, store: Store, key: str) -> Path:
        """The local folder of the checkpoint at `key`, as its manifest is now. What was taken before it stays valid.

        Raises:
            StoreError: there is none at the key, or it is damaged.
        """
        prefix = key.rstrip("/")
        try:
            manifest = store.get(f"{prefix}/{MANIFEST}")
        except KeyMissing:
            raise _missing(store, key) from None
        name = hashlib.sha256(b"\0".join((store.uri.encode(), prefix.encode(), manifest))).hexdigest()
        folder = self._folder / name
        if folder in self._held:
            self._held.remove(folder)
        else:
            if not download_checkpoint(store, prefix, folder):
                raise _missing(store, key)
            _protect(folder)
        self._held.append(folder)
        while len(self._held) > KEPT:  # a process that still maps its files keeps their contents
            shutil.rmtree(self._held.pop(0), ignore_errors=True)
        return folder


def _missing(store: Store, key: str) -> StoreError:
    return StoreError(f"the checkpoint {key!r} that the trial needs is not in the store {store.uri}, or is damaged")


def _protect(folder: Path) -> None:
    """User code that writes to a mapped tensor gets a page of its own; the file stays what it is."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o400)
