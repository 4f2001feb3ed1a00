"""Strategies, spaces, evaluators and supernet trainers by name: entry points, ours and those of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from archsearch.errors import UserError

Group = Literal["archsearch.strategies", "archsearch.spaces", "archsearch.evaluators", "archsearch.supernets"]

_WORDS = {
    "archsearch.strategies": "strategy",
    "archsearch.spaces": "search space",
    "archsearch.evaluators": "evaluator",
    "archsearch.supernets": "supernet trainer",
}


@cache
def _entries(group: Group) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def registered(group: Group) -> list[str]:
    """Sorted names of a group. Imports nothing."""
    return sorted(_entries(group))


def find(group: Group, name: str) -> Any:
    """The registered object.

    Raises:
        UserError: no entry of that name, or its module does not import.
    """
    entry = _entries(group).get(name)
    if entry is None:
        known = ", ".join(registered(group)) or "none"
        raise UserError(f"no {_WORDS[group]} is named {name!r}; known here: {known}")
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise UserError(f"the {_WORDS[group]} {name!r} ({entry.value}) does not load: {error}") from error
