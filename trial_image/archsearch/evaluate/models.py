"""From a manifest's modelSpace to a network: a zoo entry or the user's class, arguments filled in. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from archsearch.errors import ArchsearchError, UserError
from archsearch.evaluate.user import fault, import_target
from archsearch.nn import describe, fix
from archsearch.nn.mutating import MutationError, from_manifest, mutate
from archsearch.registry import find
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ModelSpace
from archsearch.spec.mutation import Mutation
from archsearch.trial.context import Infeasible

if TYPE_CHECKING:
    from archsearch.space import Architecture, SearchSpace

_EXPECTED = "expected a subclass of torch.nn.Module, or a function that returns a module"
# What building a network may raise that is no mistake in its code.
_OTHER = (MemoryError, torch.OutOfMemoryError, Infeasible)


def build_space(
    model_space: ModelSpace,
    *,
    input_shape: Sequence[int] | None = None,
    classes: int | None = None,
    arguments: Mapping[str, int] | None = None,
    wishes: JsonObject | None = None,
) -> tuple[nn.Module, ModelSpace]:
    """The network with all its choices, and the modelSpace with every argument that was filled in.

    ``classes``, ``input_channels``, ``input_size`` and `arguments` are given from the data to a zoo entry that takes
    them, and to a user's class that demands them, `wishes` to whatever takes them, unless ``args`` names them. The
    random state must be seeded: weights are drawn here.

    Raises:
        UserError: no such space or class, arguments that it does not take, or a constructor that fails.
    """
    if model_space.zoo is not None:
        what, given = f"the search space {model_space.zoo.name!r}", model_space.zoo.args
        found = find("archsearch.spaces", model_space.zoo.name)
    else:
        assert model_space.python is not None  # noqa: S101  # one of the two, by the model's own check
        what, given = f"modelSpace.python.class {model_space.python.class_}", model_space.python.args
        found = import_target(model_space.python.class_)
    if not (issubclass(found, nn.Module) if inspect.isclass(found) else inspect.isroutine(found)):
        raise UserError(f"{what} is {_kind(found)}; {_EXPECTED}")
    known = {**_from_data(input_shape, classes), **(arguments or {})}
    args = {
        **_taken(found, known, required_only=model_space.zoo is None),
        **_taken(found, wishes or {}, required_only=False),
        **given,
    }
    try:
        inspect.signature(found).bind(**args)
    except TypeError as error:
        form = "" if inspect.isclass(found) else f"; {_EXPECTED}"
        raise UserError(
            f"{what} does not take the arguments {args}: {error}; its signature is {inspect.signature(found)}{form}"
        ) from error
    try:
        model = found(**args)
    except _OTHER:
        raise
    except Exception as error:
        raise fault(error, f"{what} cannot be made with the arguments {args}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{what} gives something {_kind(model)}; {_EXPECTED}")
    if model_space.mutate:
        model = _mutated(model, model_space.mutate)
    return model, with_arguments(model_space, args)


def _mutated(model: nn.Module, mutations: Sequence[Mutation]) -> nn.Module:
    try:
        return mutate(model, [from_manifest(mutation) for mutation in mutations])
    except MutationError as error:
        raise UserError(f"modelSpace.{error}") from error


def describe_space(model: nn.Module) -> SearchSpace:
    """The search space of a network that has at least one choice.

    Raises:
        UserError: it has none, or its choices contradict each other.
    """
    space = describe(model)
    if not space.choices:
        raise UserError(
            f"{type(model).__name__} has no choices: put archsearch.nn.LayerChoice, InputChoice, ValueChoice or "
            "Repeat in it, or say in modelSpace.mutate what may be replaced"
        )
    return space


def fixed(
    model: nn.Module, space: SearchSpace, architecture: JsonObject, digest: str | None
) -> tuple[nn.Module, Architecture]:
    """The plain network of `architecture`, checked against the digest that the search was made with.

    Raises:
        UserError: another space, or an architecture that is not of this space.
    """
    if digest is not None and space.digest != digest:
        raise UserError(
            f"the search space of {type(model).__name__} has the digest {space.digest[:12]}, the search was made with "
            f"{digest[:12]}: the code or its arguments changed; use the code that the search used"
        )
    chosen = space.validate(architecture)
    try:
        return fix(model, chosen), chosen
    except (*_OTHER, ArchsearchError):
        raise
    except Exception as error:
        raise fault(error, f"the architecture {dict(architecture)} cannot be built") from error


def _from_data(input_shape: Sequence[int] | None, classes: int | None) -> dict[str, int]:
    known = {"classes": classes} if classes is not None else {}
    if input_shape:
        known |= {"input_channels": input_shape[0], "input_size": input_shape[-1]}
    return known


def _taken(found: type[nn.Module], known: Mapping[str, Any], *, required_only: bool) -> JsonObject:
    parameters = inspect.signature(found).parameters
    return {
        name: value
        for name, value in known.items()
        if name in parameters and (not required_only or parameters[name].default is inspect.Parameter.empty)
    }


def arguments(model_space: ModelSpace) -> JsonObject:
    """The constructor's arguments that a modelSpace names."""
    if model_space.zoo is not None:
        return dict(model_space.zoo.args)
    return dict(model_space.python.args) if model_space.python is not None else {}


def with_arguments(model_space: ModelSpace, args: JsonObject) -> ModelSpace:
    """The modelSpace with these arguments in place of its own."""
    if model_space.zoo is not None:
        return model_space.model_copy(update={"zoo": model_space.zoo.model_copy(update={"args": args})})
    assert model_space.python is not None  # noqa: S101
    return model_space.model_copy(update={"python": model_space.python.model_copy(update={"args": args})})


def overlaid(model_space: ModelSpace, args: JsonObject | None) -> ModelSpace:
    """The modelSpace with these arguments laid over its own (`params.modelArgs`)."""
    if not args:
        return model_space
    if not isinstance(args, dict):
        raise UserError(f"modelArgs is a mapping of arguments of the model space, not {args!r:.80}")
    return with_arguments(model_space, {**arguments(model_space), **args})


def _kind(found: Any) -> str:
    return f"the class {found.__name__}" if inspect.isclass(found) else f"of type {type(found).__name__}"
