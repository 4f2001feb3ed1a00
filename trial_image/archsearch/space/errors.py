"""What can be wrong with a search space or an architecture."""

from __future__ import annotations

from archsearch.errors import UserError


class SpaceError(UserError):
    """A search space that is no search space, or in which nothing of what was asked for exists."""


class ArchitectureError(UserError):
    """An architecture that does not belong to its search space. The text names the choice."""


def shown(value: object, limit: int = 100) -> str:
    """A value as an error shows it: bounded."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listed(values: object, limit: int = 12) -> str:
    """A list of names as an error shows it: the first dozen, and how many there are."""
    names = [str(value) for value in values]  # type: ignore[attr-defined]
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
