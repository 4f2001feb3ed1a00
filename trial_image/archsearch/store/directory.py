"""A directory of a local or shared POSIX file system as a store."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from archsearch.errors import StoreError, StoreUnavailable
from archsearch.store.base import KeyMissing, ObjectInfo, Store, checked_key

_TEMPORARY = ".archsearch-tmp"  # one folder at the root, so that no listing meets half-written files
_STALE_SECONDS = 24 * 3600.0
_PUBLISH_ATTEMPTS = 100
_counter = itertools.count()
# What passes by itself or once somebody made room; anything else needs a change of rights or mounts.
_TRANSIENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
}


class DirectoryStore(Store):
    """Objects are files. Writes go to a temporary file, which is synced, then renamed (`put`) or linked (`create`)."""

    def __init__(self, root: Path, prefix: str = "") -> None:
        self._root = root
        self._prefix = prefix
        self._base = root / prefix if prefix else root

    @property
    def uri(self) -> str:
        return str(self._base)

    def child(self, prefix: str) -> DirectoryStore:
        return DirectoryStore(
            self._root, f"{self._prefix}/{checked_key(prefix)}" if self._prefix else checked_key(prefix)
        )

    def get(self, key: str) -> bytes:
        with self._errors(key):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key):
            try:
                shutil.copyfile(self._path(key), temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, lambda file: file.write(data), os.replace)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, lambda file: shutil.copyfileobj(source, file, 1 << 20), os.replace)

    def _create_once(self, key: str, data: bytes) -> bool:
        try:
            self._write(key, lambda file: file.write(data), os.link)
        except FileExistsError:
            return False
        return True

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        # Only the folder that the prefix names is walked: a run with many trials is not read to list its ledger.
        folder = prefix.rpartition("/")[0]
        with self._errors(prefix):
            found = list(self._walk(self._base / folder if folder else self._base, f"{folder}/" if folder else ""))
        return sorted((info for info in found if info.key.startswith(prefix)), key=lambda info: info.key)

    def _walk(self, folder: Path, key: str) -> Iterator[ObjectInfo]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.name == _TEMPORARY:
                continue
            if entry.is_dir():
                yield from self._walk(Path(entry.path), f"{key}{entry.name}/")
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # deleted meanwhile
                continue
            yield ObjectInfo(key + entry.name, status.st_size, status.st_mtime)

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            path = self._path(key)
            with self._errors(key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            self._sync(folder)
            self._remove_empty(folder)

    def exists(self, key: str) -> bool:
        with self._errors(key):
            return self._path(key).is_file()

    def check(self) -> None:
        """Also sweeps temporary files that a killed writer left a day ago."""
        folder = self._base
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise StoreError(f"storage {self.uri}: {folder} is a file, not a directory; name another directory")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise StoreError(
                f"storage {self.uri}: no right to write in {folder}; change its owner or name another directory"
            )
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._root / _TEMPORARY):
                if entry.stat().st_mtime < time.time() - _STALE_SECONDS:
                    os.unlink(entry.path)

    def _path(self, key: str) -> Path:
        return self._base / checked_key(key)

    def _write(self, key: str, fill: Callable[[BinaryIO], object], publish: Callable[[Path, Path], None]) -> None:
        target = self._path(key)
        temporary = self._root / _TEMPORARY / f"{os.getpid()}-{next(_counter)}-{os.urandom(4).hex()}"
        with self._errors(key, writing=True):
            try:
                with self._open_new(temporary) as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                for attempt in range(_PUBLISH_ATTEMPTS):
                    try:
                        publish(temporary, target)
                        break
                    except FileNotFoundError:  # the folder is new, or was removed as empty just now
                        if attempt + 1 == _PUBLISH_ATTEMPTS:
                            raise
                        with contextlib.suppress(FileNotFoundError):
                            self._make(target.parent)
                self._sync(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _open_new(self, path: Path) -> BinaryIO:
        try:
            return path.open("xb")
        except FileNotFoundError:
            self._make(path.parent)
            return path.open("xb")

    def _make(self, folder: Path) -> None:
        """Create a folder and its parents so that they survive a crash of the machine."""
        missing = [folder, *folder.parents]
        missing = list(itertools.takewhile(lambda path: not path.is_dir(), missing))
        for path in reversed(missing):
            try:
                path.mkdir(exist_ok=True)
            except FileExistsError as error:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
            self._sync(path.parent)

    def _remove_empty(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    @staticmethod
    def _sync(folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _errors(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            if not writing and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
                raise KeyMissing(f"{self.uri} has no object {key!r}") from error
            text = f"storage {self.uri}: {key}: {error.strerror or error}"
            if error.errno in _TRANSIENT:
                remedy = "; make room on this disk" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
                raise StoreUnavailable(text + remedy) from error
            if error.errno in {errno.ENOTDIR, errno.EISDIR}:
                raise StoreError(f"{text}; of the key and its folders one is a file, another a folder") from error
            raise StoreError(f"{text}; check the directory's owner, rights and mount") from error
