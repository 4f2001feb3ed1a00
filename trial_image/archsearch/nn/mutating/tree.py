"""The modules of a network by the paths that they had before it was mutated."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from archsearch.nn.values import ValueModule


@dataclass
class Place:
    """One module of the network: every path and every slot (parent, name) that holds it."""

    module: nn.Module
    kind: type[nn.Module]
    paths: list[str] = field(default_factory=list)
    slots: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.paths[0]


class Tree:
    """A network whose modules are being exchanged. A module that stands in several slots is exchanged in all."""

    def __init__(self, model: nn.Module) -> None:
        self._root = nn.Module()
        self._root.add_module("model", model)
        self.added: set[int] = set()
        self.replaced: dict[str, str] = {}  # path: the operation that replaced what was there
        self._keeping: list[nn.Module] = []  # identities are only good for as long as the modules live
        self._inside: dict[int, list[tuple[nn.Module, str]]] = {}
        self._kinds: dict[str, type[nn.Module]] = {}
        self._kinds = {path: place.kind for place in self.places() for path in place.paths}

    @property
    def model(self) -> nn.Module:
        found = self._root._modules["model"]
        assert found is not None  # noqa: S101 - __init__ put it there
        return found

    def places(self) -> list[Place]:
        """The network's own modules that are still in it, in order, parents first."""
        found: dict[int, Place] = {}
        self._collect(self.model, "", (self._root, "model"), found, ())
        return list(found.values())

    def _collect(
        self,
        module: nn.Module,
        path: str,
        slot: tuple[nn.Module, str],
        found: dict[int, Place],
        above: tuple[nn.Module, ...],
    ) -> None:
        if any(module is each for each in above):
            return
        if id(module) in self.added:
            for kept, below in self._inside.get(id(module), ()):
                for holding in _slots_of(kept, module):
                    self._collect(kept, _join(path, below), holding, found, (*above, module))
            return
        place = found.setdefault(id(module), Place(module, self._kinds.get(path, type(module))))
        if path not in place.paths:
            place.paths.append(path)
        if not any(parent is slot[0] and name == slot[1] for parent, name in place.slots):
            place.slots.append(slot)
        if isinstance(module, ValueModule):
            return
        for child_name, child in module._modules.items():
            if child is not None:
                self._collect(child, _join(path, child_name), (module, child_name), found, (*above, module))

    def matching(self, pattern: str | None, test: Callable[[Place], bool]) -> list[Place]:
        """Places of which a path fits the pattern (* for any text, dots too) and that pass the test."""
        return [
            place
            for place in self.places()
            if (pattern is None or any(fnmatch.fnmatchcase(path, pattern) for path in place.paths)) and test(place)
        ]

    def put(self, place: Place, module: nn.Module, inside: Sequence[tuple[nn.Module, str]] = ()) -> None:
        """Put a module in a place.

        Args:
            inside: modules of the network that it holds, and their paths below the place.
        """
        self.adopt(module, inside)
        for parent, name in place.slots:
            parent._modules[name] = module

    def adopt(self, module: nn.Module, inside: Sequence[tuple[nn.Module, str]] = ()) -> None:
        """Remember a module as none of the network's own."""
        self.added.add(id(module))
        self._keeping.append(module)
        if inside:
            self._inside[id(module)] = list(inside)

    def near(self, pattern: str) -> str:
        """What a person may have meant by a pattern that fits nothing."""
        paths = [path for place in self.places() for path in place.paths if path]
        close = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.5)
        return ", ".join(map(repr, close or paths[:8])) + (", …" if not close and len(paths) > 8 else "")


def _slots_of(wanted: nn.Module, within: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    seen: set[int] = set()
    waiting = [within]
    while waiting:
        module = waiting.pop()
        if id(module) in seen or module is wanted:
            continue
        seen.add(id(module))
        for name, child in module._modules.items():
            if child is wanted:
                yield module, name
            elif child is not None:
                waiting.append(child)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
