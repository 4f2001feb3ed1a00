"""A store in memory for tests that make a store misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from archsearch.store import KeyMissing, ObjectInfo, Store

Hook = Callable[[str, str], None]  # called with the operation (get, put, create, list, delete, exists) and the key


class MemoryStore(Store):
    """`before` is called before an operation takes effect, `after` when it has; what they raise is its answer."""

    def __init__(self, objects: dict[str, bytes] | None = None, prefix: str = "") -> None:
        self.objects = {} if objects is None else objects
        self.prefix = prefix
        self.before: Hook = lambda operation, key: None
        self.after: Hook = lambda operation, key: None
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return f"memory:{self.prefix}"

    def child(self, prefix: str) -> MemoryStore:
        raise NotImplementedError("no test needs it")

    def get(self, key: str) -> bytes:
        self.before("get", key)
        with self._lock:
            if key not in self.objects:
                raise KeyMissing(f"no object {key}")
            data = self.objects[key]
        self.after("get", key)
        return data

    def get_file(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))

    def put(self, key: str, data: bytes) -> None:
        self.before("put", key)
        with self._lock:
            self.objects[key] = data
        self.after("put", key)

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def _create_once(self, key: str, data: bytes) -> bool:
        self.before("create", key)
        with self._lock:
            created = self.objects.setdefault(key, data) is data
        self.after("create", key)
        return created

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        self.before("list", prefix)
        with self._lock:
            found = [
                ObjectInfo(key, len(data), 0.0) for key, data in sorted(self.objects.items()) if key.startswith(prefix)
            ]
        self.after("list", prefix)
        return found

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.before("delete", key)
            with self._lock:
                self.objects.pop(key, None)
            self.after("delete", key)

    def exists(self, key: str) -> bool:
        self.before("exists", key)
        with self._lock:
            return key in self.objects

    def check(self) -> None:
        self.before("check", "")


class UnsafeStore(MemoryStore):
    """Looks first and writes later, as some S3-compatible services do: in turn right, at once wrong."""

    def _create_once(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        time.sleep(0.02)
        self.objects[key] = data
        return True
