"""What the operator has seen: experiments and strategy Jobs by key, fed by watches and set right by each LIST."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from archsearch.spec import names
from archsearch.spec.base import JsonObject


class Key(NamedTuple):
    """One experiment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(body: JsonObject) -> Key | None:
    """The experiment that an object is, or belongs to by its label; None for a stranger."""
    meta = body.get("metadata") or {}
    if body.get("kind") == names.KIND:
        return Key(meta.get("namespace", ""), meta.get("name", ""))
    experiment = (meta.get("labels") or {}).get(names.LABEL_EXPERIMENT)
    return Key(meta.get("namespace", ""), experiment) if experiment else None


def _version(body: JsonObject) -> int:
    text = str(body["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else -1


class Store:
    """Objects of one kind. A watch can lose what vanished while it was away; `relist` finds that out.

    Each object keeps the moment at which it was seen, so that a LIST that began earlier neither removes nor reverts it.
    """

    def __init__(self) -> None:
        self._objects: dict[Key, JsonObject] = {}
        self._seen: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[tuple[Key, JsonObject]]:
        return iter(list(self._objects.items()))

    def get(self, key: Key) -> JsonObject | None:
        return self._objects.get(key)

    def observe(self, body: JsonObject, now: float) -> Key | None:
        """Take an object in, unless a newer version of it is known. Returns its key, or None where nothing is new."""
        key = key_of(body)
        if key is None:
            return None
        known = self._objects.get(key)
        if known is not None and 0 <= _version(body) <= _version(known):
            self._seen[key] = now
            return None
        self._objects[key], self._seen[key] = body, now
        return key

    def remove(self, body: JsonObject) -> Key | None:
        """Take an object out; one of the same name that came after it stays."""
        key = key_of(body)
        if key is None or key not in self._objects:
            return None
        if self._objects[key]["metadata"].get("uid") != body["metadata"].get("uid"):
            return None
        del self._objects[key], self._seen[key]
        return key

    def relist(self, items: Iterable[JsonObject], started: float, now: float) -> list[Key]:
        """Compare with a LIST that was asked for at `started`. Returns the keys whose object was wrong here."""
        listed: dict[Key, JsonObject] = {}
        for body in items:
            key = key_of(body)
            if key is not None and _version(body) >= _version(listed.get(key, {"metadata": {}})):
                listed[key] = body
        wrong = [
            key
            for key, body in listed.items()
            if self._seen.get(key, -1.0) < started and self.observe(body, now) is not None
        ]
        for key in [key for key in self._objects if key not in listed and self._seen[key] < started]:
            del self._objects[key], self._seen[key]
            wrong.append(key)
        return wrong
