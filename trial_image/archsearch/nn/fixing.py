"""What is known while a model is described or fixed: the name and path of every choice, and the decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from archsearch.errors import UserError
from archsearch.space import ArchitectureError, Decision

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Fixing:
    """Names and paths by the identity of the module, and the decisions (none while describing)."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)

    def name(self, module: nn.Module) -> str:
        """The name of the choice that a module stands for.

        Raises:
            UserError: it is no submodule of the model that was described.
        """
        name = self.names.get(id(module))
        if name is None:
            raise UserError(
                f"a {type(module).__name__} that the network uses is none of its submodules, so that nothing can "
                "choose for it: assign it to an attribute, or put it in a torch.nn.ModuleList, not in a plain list"
            )
        return name

    def decision(self, module: nn.Module) -> Decision:
        """What was decided for a module's choice.

        Raises:
            ArchitectureError: nothing was.
        """
        name = self.name(module)
        if name not in self.decisions:
            path = self.paths.get(id(module), name)
            raise ArchitectureError(f"the architecture has no decision for choice {name!r}, which {path} needs")
        return self.decisions[name]


_CURRENT: ContextVar[Fixing | None] = ContextVar("archsearch_fixing", default=None)


def current() -> Fixing | None:
    """The fixing under way in this context, in which copying a choice gives what was decided."""
    return _CURRENT.get()


@contextmanager
def under(fixing: Fixing) -> Iterator[None]:
    """Make `fixing` current."""
    token = _CURRENT.set(fixing)
    try:
        yield
    finally:
        _CURRENT.reset(token)
