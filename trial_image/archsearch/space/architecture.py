"""An architecture: an immutable mapping of choices to decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archsearch.space.canonical import digest
from archsearch.space.choices import Decision
from archsearch.space.errors import ArchitectureError, shown


class Architecture(Mapping[str, Decision]):
    """``{choice: decision}``: a candidate's name, an ordinal's value, or a tuple of chosen inputs.

    Hashable and equal by content.
    `SearchSpace.validate` tells whether it belongs to a space; by itself it is only well-formed.

    Raises:
        ArchitectureError: a key is no string, or a decision is no scalar and no list of inputs.
    """

    __slots__ = ("_data", "_identity", "_space")

    def __init__(self, decisions: Mapping[str, Any]) -> None:
        if not isinstance(decisions, Mapping):
            raise ArchitectureError(
                f"an architecture is an object {{choice: decision}}, not {type(decisions).__name__} {shown(decisions)}"
            )
        self._data: dict[str, Decision] = {_name(name): _decision(name, value) for name, value in decisions.items()}
        self._identity: str | None = None
        self._space: object = None  # the space that made it, whose own operations then need not check it again

    @classmethod
    def _made(cls, data: dict[str, Decision], space: object) -> Architecture:
        made = cls.__new__(cls)
        made._data = data
        made._identity = None
        made._space = space
        return made

    @classmethod
    def from_json(cls, document: Any) -> Architecture:
        """The architecture of a JSON object; lists become tuples."""
        return cls(document)

    def to_json(self) -> dict[str, Any]:
        """A new JSON object; chosen inputs as a list."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._data.items()}

    @property
    def identity(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits: equal to its space's `hash` once it is validated."""
        if self._identity is None:
            self._identity = digest(self._data)
        return self._identity

    def __getitem__(self, name: str) -> Decision:
        return self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, name: object) -> bool:
        return name in self._data

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Architecture):
            return self._data == other._data
        if isinstance(other, Mapping):
            try:
                return self._data == Architecture(other)._data
            except ArchitectureError:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._data.items()))

    def __repr__(self) -> str:
        return f"Architecture({self.to_json()!r})"

    def __reduce__(self) -> tuple[type[Architecture], tuple[dict[str, Any]]]:
        return Architecture, (self.to_json(),)


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise ArchitectureError(f"the name of a choice is a string, not {shown(name)}")
    return name


def _decision(name: str, value: Any) -> Decision:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, str | int) and not isinstance(v, bool) for v in value):
        return tuple(value)
    raise ArchitectureError(
        f"choice {name!r}: {shown(value)} is no decision; give a candidate's name, a value, or a list of inputs"
    )
