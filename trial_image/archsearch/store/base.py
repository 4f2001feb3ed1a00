"""What every store can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from archsearch.errors import StoreError, UserError
from archsearch.spec.names import STORAGE_SECRET_KEYS


class KeyMissing(StoreError):
    """No object has this key."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing. `modified` is in seconds since the epoch, by the store's clock."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class Credentials:
    """Keys of an S3 service. They never appear in a repr or an error."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name, secret_key in zip(("access_key", "secret_key", "session_token"), STORAGE_SECRET_KEYS, strict=True):
            value = getattr(self, name).strip()  # a file or Secret often ends in a newline
            object.__setattr__(self, name, value)
            if (not value and name != "session_token") or not value.isascii() or not (value or "x").isprintable():
                raise UserError(f"the storage key {secret_key} is empty or holds characters that no key has")

    @classmethod
    def from_directory(cls, directory: Path) -> Credentials | None:
        """Read the files of a mounted storage Secret, or None where it has no keys (then the default chain applies).

        Raises:
            UserError: only one of the two keys is there, or one is malformed.
        """
        values = [path.read_text() if (path := directory / name).is_file() else "" for name in STORAGE_SECRET_KEYS]
        if not values[0] and not values[1]:
            return None
        return cls(*values)


class Store(ABC):
    """A flat map of keys (`a/b/c`, no empty, `.` or `..` part) to bytes below a URI. Thread-safe.

    Every method raises StoreUnavailable after its own bounded retries when the store does not answer, and StoreError
    with the remedy when it refuses.
    """

    @property
    @abstractmethod
    def uri(self) -> str:
        """What `open_store` takes to open this store again; holds no secret."""

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """The same store below `prefix`."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The object's content. Raises KeyMissing."""

    @abstractmethod
    def get_file(self, key: str, path: Path) -> None:
        """Fetch the object into a new or replaced file, which appears complete or not at all. Raises KeyMissing."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write or replace the object; durable when this returns."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Write or replace the object with a file's content; durable when this returns."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """All objects whose key starts with `prefix`, sorted by key. Not a snapshot while others write."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects; missing ones are no error."""

    @abstractmethod
    def exists(self, key: str) -> bool: ...

    @abstractmethod
    def check(self) -> None:
        """Find out whether the store can be used at all: raises StoreError naming what to do, or StoreUnavailable."""

    @abstractmethod
    def _create_once(self, key: str, data: bytes) -> bool:
        """One conditional write; False when the key exists."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object only if its key is free; durable when this returns True.

        Returns:
            False when the key exists with another content. A key that exists with exactly `data` counts as created,
            since the reply to our own write may have been lost: racers must differ in their bytes.
        """
        for _ in range(100):
            if self._create_once(key, data):
                return True
            try:
                return self.get(key) == data
            except KeyMissing:  # deleted between the two
                continue
        raise StoreError(f"{self.uri}: {key} is being created and deleted by others without end")


def checked_key(key: str) -> str:
    """`key`, if it may name an object.

    Raises:
        StoreError: it is empty, absolute, or climbs out of the store.
    """
    if not key or "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise StoreError(f"{key!r} is no key of a store: expected names joined by single slashes, without . or ..")
    return key
