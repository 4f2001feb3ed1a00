"""What a trial reads from and writes to the store: checkpoints; and back, also weights, artefacts and the log's end.

All of it happens in the supervisor, since trial children have no keys. Names in the store hold the lease's fence, so
that two workers that both believe to own a trial never write to the same place.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from archsearch.errors import StoreError, StoreUnavailable, UserError
from archsearch.protocol import LOG_TAIL_BYTES, Assignment, Fence, StorageRef
from archsearch.spec.names import STORAGE_SECRET_KEYS
from archsearch.store import Credentials, Store, open_at, split_key
from archsearch.store.checkpoint import newest_checkpoint, prune_checkpoints, upload_directory
from archsearch.worker.inputs import InputCache
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.settings import Secrets

ATTEMPTS = 4
BACKOFF_SECONDS = 0.5
_T = TypeVar("_T")


class Stores:
    """Stores by where they are, opened once: the client library alone takes longer to import than a short trial.

    Args:
        inputs: a folder for the checkpoints that trials begin with.
    """

    def __init__(self, secrets: Secrets, inputs: Path) -> None:
        self.inputs = InputCache(inputs)
        self._secrets = secrets
        self._open: dict[str, Store] = {}

    def of(self, assignment: Assignment) -> Store:
        """The run's."""
        return self._at(assignment.storage)

    def elsewhere(self, assignment: Assignment, uri: str) -> Store:
        """Another folder, of another run, at the same endpoint and with the same keys."""
        return self._at(assignment.storage.model_copy(update={"uri": uri}))

    def _at(self, ref: StorageRef) -> Store:
        found = self._open.get(ref.model_dump_json())
        if found is None:
            access, secret, token = (self._secrets.storage.get(name, "") for name in STORAGE_SECRET_KEYS)
            keys = Credentials(access, secret, token) if access or secret else None
            found = open_at(ref, ref.uri, credentials=keys, ca_bundle=self._secrets.ca_bundle)
            self._open[ref.model_dump_json()] = found
        return found


class TrialStorage:
    """The store of one attempt at a trial. While the store is unavailable methods try again, then raise StoreError."""

    def __init__(self, assignment: Assignment, fence: Fence, stores: Stores, metrics: WorkerMetrics) -> None:
        self._assignment = assignment
        self._stores = stores
        self._metrics = metrics
        self._suffix = f"{fence.epoch}-{fence.counter}"
        self._checkpoints = f"{assignment.folder}/checkpoints"
        self.newest = ""  # key of the newest checkpoint that this attempt completed

    async def resume(self, directory: Path) -> Path | None:
        """Fetch the newest sound checkpoint of earlier attempts."""

        def fetch(store: Store) -> Path | None:
            return newest_checkpoint(store, self._checkpoints, directory)

        return await self._retried(fetch)

    async def fetch_input(self, key: str) -> Path:
        """The local folder of the checkpoint that the assignment names, verified when it was fetched.

        The key is below the run's folder, or a URI below another run's.

        Raises:
            StoreError: there is none at the key, or it is damaged.
        """

        def fetch(store: Store) -> Path:
            folder, name = split_key(key)
            if folder:
                store = self._stores.elsewhere(self._assignment, folder)
            return self._stores.inputs.fetch(store, name)

        return await self._retried(fetch)

    async def save_checkpoint(self, name: str, directory: Path) -> None:
        """Upload a checkpoint and delete those that retention does not keep."""
        key = f"{self._checkpoints}/{name}-{self._suffix}"
        await self.save(key, directory)
        self._metrics.checkpoints.inc()
        self.newest = key

        def prune(store: Store) -> None:
            prune_checkpoints(store, self._checkpoints, self._assignment.retention.checkpoints, [key])

        await self._retried(prune)

    async def save_weights(self, directory: Path) -> str:
        """Upload the final weights; returns their key."""
        key = f"{self._assignment.folder}/weights/{self._suffix}"
        await self.save(key, directory)
        return key

    async def save(self, key: str, directory: Path) -> None:
        """Upload a directory that has a manifest, the manifest last."""
        size = sum(path.lstat().st_size for path in _plain_files(directory))

        def put(store: Store) -> None:
            upload_directory(store, key.rstrip("/"), directory)

        await self._upload(put, size)

    async def save_log(self, tail: bytes) -> str:
        """Write the log's end; returns its key."""
        key = f"{self._assignment.folder}/log.txt"
        await self._upload(lambda store: store.put(key, tail), len(tail))
        return key

    async def _upload(self, put: Callable[[Store], None], size: int) -> None:
        start = time.monotonic()
        await self._retried(put)
        self._metrics.upload_bytes.inc(size)
        self._metrics.upload_seconds.inc(time.monotonic() - start)

    async def _retried(self, action: Callable[[Store], _T]) -> _T:
        for attempt in range(ATTEMPTS):
            try:
                return await asyncio.to_thread(self._act, action)
            except StoreUnavailable:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _act(self, action: Callable[[Store], _T]) -> _T:
        try:
            return action(self._stores.of(self._assignment))
        except UserError as error:
            raise StoreError(str(error)) from error


def _plain_files(directory: Path) -> list[Path]:
    """All files of what a child wrote. A link would be followed with the supervisor's rights.

    Raises:
        StoreError: something there is neither a file nor a folder.
    """
    found = []
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                raise StoreError(f"{path.relative_to(directory)} is neither a file nor a folder: it is not uploaded")
    return found


def log_tail(path: Path) -> bytes:
    """The end of a trial's log, in whole lines; empty where there is none, or no plain file (the child made it)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            return b""
        cut = state.st_size > LOG_TAIL_BYTES
        file.seek(max(0, state.st_size - LOG_TAIL_BYTES))
        tail = file.read(LOG_TAIL_BYTES)
    return tail.partition(b"\n")[2] if cut and b"\n" in tail else tail
