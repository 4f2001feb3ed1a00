"""Making a network for one known architecture: what it does not choose need not be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from torch import nn

from archsearch.errors import UserError

_DECISIONS: ContextVar[Mapping[str, Any] | None] = ContextVar("archsearch_sparing", default=None)


class Spared(nn.Module):
    """Stands for a candidate that was not made."""

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError("this candidate was not made, for its network is made for another architecture")


@contextmanager
def sparing(decisions: Mapping[str, Any]) -> Iterator[None]:
    """Make models here for this architecture alone; `fix` with it here gives a plain network with fresh weights."""
    token = _DECISIONS.set(decisions)
    try:
        yield
    finally:
        _DECISIONS.reset(token)


def is_sparing() -> bool:
    """Whether a model is being made for one architecture."""
    return _DECISIONS.get() is not None


def candidates(label: str | None, makers: Mapping[str, Callable[[], nn.Module]]) -> dict[str, nn.Module]:
    """The candidates of the choice of that label, made; under `sparing` those that are not decided are `Spared`."""
    decisions = _DECISIONS.get()
    if decisions is None or label is None:
        return {name: make() for name, make in makers.items()}
    chosen = decisions.get(label)
    return {name: make() if name == chosen else Spared() for name, make in makers.items()}
