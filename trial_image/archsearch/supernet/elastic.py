"""Modules whose arguments are chosen, on shared weights: each takes its part of the largest one's. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from archsearch.errors import UserError

if TYPE_CHECKING:
    from archsearch.nn.values import ValueModule


def widen(model: nn.Module) -> None:
    """Give every module with chosen arguments the largest parameters that any choice needs, in place.

    A model without such modules is left as it is; a second call changes nothing.
    """


class Elastic:
    """Calls modules with chosen arguments."""

    def call(
        self, module: ValueModule, value: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The output of `module` with the arguments that `value` gives."""
        raise UserError(f"{type(module.inner).__name__} with chosen arguments cannot be part of a supernet")
