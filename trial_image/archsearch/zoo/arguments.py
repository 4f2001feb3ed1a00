"""Checks of what a space is built with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archsearch.errors import UserError


def whole(space: str, **given: Any) -> None:
    """Whole numbers from 1 on.

    Raises:
        UserError: one is not; the text names the space, the argument and the value.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{space}: {name} is a whole number from 1 on, not {value!r}")


def one_of(space: str, name: str, value: Any, known: Sequence[Any]) -> None:
    """One of several values.

    Raises:
        UserError: it is none of them.
    """
    if value not in known:
        raise UserError(f"{space}: {name} is one of {', '.join(map(repr, known))}, not {value!r}")


def probability(space: str, name: str, value: Any) -> None:
    """A number from 0 on and below 1.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f"{space}: {name} is a number from 0 on and below 1, not {value!r}")
