"""From a space's name and an architecture, in any of its notations, to a plain network."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from archsearch.errors import UserError
from archsearch.nn import describe, fix
from archsearch.nn.sparing import sparing
from archsearch.registry import find
from archsearch.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Published:
    """An architecture of the literature.

    Attributes:
        notation: in its space's notation.
        args: arguments of the space that belong to it (widths, say).
        source: where it was published.
    """

    notation: Any
    source: str
    args: Mapping[str, Any] = field(default_factory=dict)


def space_class(space: str | type[nn.Module]) -> type[nn.Module]:
    """The class of a registered space (a class is given back).

    Raises:
        UserError: no space of that name.
    """
    found = find("archsearch.spaces", space) if isinstance(space, str) else space
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UserError(f"the search space {space!r} is {found!r}, not a subclass of torch.nn.Module")
    return found


def published(space: str | type[nn.Module]) -> dict[str, Published]:
    """The named architectures of a space."""
    return dict(getattr(space_class(space), "published", {}))


def describe_space(space: str | type[nn.Module], **args: Any) -> SearchSpace:
    """The search space, described on as small a network as has all its choices."""
    return _space(space_class(space), args)


def architecture(space: str | type[nn.Module], notation: Any, **args: Any) -> Architecture:
    """An architecture from a published name, the space's customary notation, or an object ``{choice: decision}``.

    Args:
        space: a zoo name, or a space's class.
        notation: names are compared without case, and "-" is "_".
        args: arguments of the space on which its choices depend.

    Raises:
        UserError: an unknown name (the known ones are listed) or a malformed notation.
        ArchitectureError: what it says is not in the space.
    """
    return _read(space_class(space), notation, args)[0]


def build(space: str | type[nn.Module], architecture: Any = None, **args: Any) -> nn.Module:
    """A plain network: no choices, fresh weights drawn from torch's random state.

    Args:
        space: a zoo name, or a space's class.
        architecture: what `architecture` takes; None: the first candidate of each choice.
        args: the space's arguments (channels, cells, classes, …). They go before those of a published architecture.
            `input_size` may be given to every space; those that take images of any size pass over it.

    Raises:
        UserError: unknown space, name or argument, a malformed notation.
        ArchitectureError: an architecture of another space.
    """
    cls = space_class(space)
    chosen, extra = (_space(cls, args).default(), {}) if architecture is None else _read(cls, architecture, args)
    with sparing(chosen):
        model = _make(cls, {**extra, **args})
        there = describe(model)
        # A network of few cells may have no normal one, and then none of its choices.
        return fix(model, {name: decision for name, decision in chosen.items() if name in there})


def _read(cls: type[nn.Module], notation: Any, args: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any]]:
    """The architecture, and the arguments that it brings."""
    brought: dict[str, Any] = {}
    if isinstance(notation, str):
        named = {_plain(name): value for name, value in published(cls).items()}
        if _plain(notation) in named:
            entry = named[_plain(notation)]
            notation, brought = entry.notation, dict(entry.args)
    decisions = _decisions(cls, notation, {**brought, **args})
    implied = getattr(cls, "implied", None)
    if implied is not None:
        brought |= implied(decisions)
    return _space(cls, {**brought, **args}).validate(decisions), brought


def _decisions(cls: type[nn.Module], notation: Any, args: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(notation, Architecture):
        return notation
    read = getattr(cls, "decisions", None)
    name = isinstance(notation, str) and re.fullmatch(r"[A-Za-z][\w .-]*", notation)
    object_ = isinstance(notation, Mapping) and not {"normal", "matrix", "blocks", "layers"} & set(notation)
    if read is not None and not name and not object_:
        decisions: Mapping[str, Any] = read(notation, args)
        return decisions
    if isinstance(notation, Mapping):
        return notation
    space = getattr(cls, "name", cls.__name__)
    known = ", ".join(published(cls)) or "none"
    raise UserError(f"{space} has no architecture {notation!r}; published ones known here: {known}")


_SPACES: dict[tuple[type[nn.Module], str], SearchSpace] = {}


def _space(cls: type[nn.Module], args: Mapping[str, Any]) -> SearchSpace:
    """The space that the arguments make, described on as small a network as has all its choices, and kept."""
    small = {**args, **getattr(cls, "small", {})}
    key = cls, json.dumps(small, sort_keys=True, default=repr)
    if key not in _SPACES:
        with torch.random.fork_rng(devices=[]):
            _SPACES[key] = describe(_make(cls, small))
    return _SPACES[key]


def _make(cls: type[nn.Module], args: Mapping[str, Any]) -> nn.Module:
    signature = inspect.signature(cls)
    if "input_size" not in signature.parameters:
        args = {name: value for name, value in args.items() if name != "input_size"}  # it takes images of any size
    try:
        signature.bind(**args)
    except TypeError as error:
        name = getattr(cls, "name", cls.__name__)
        raise UserError(f"{name} cannot be built with {dict(args)}: {error}; it takes {signature}") from error
    return cls(**args)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")
