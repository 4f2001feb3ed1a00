"""From what a person writes for a candidate to a module, for one place of a network."""

from __future__ import annotations

import ast
import copy
import difflib
import importlib
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from archsearch.errors import UserError
from archsearch.nn.mutables import LayerChoice
from archsearch.nn.mutating.plain import Skip
from archsearch.nn.values import Value, ValueChoice, wrap
from archsearch.spec.mutation import IDENTITY, KEEP, REFERENCE

# What $in, $out and $kernel mean: the first of these attributes that the replaced module has.
_ALIASES = {
    "in": ("in_channels", "in_features", "num_features", "num_channels", "normalized_shape", "embed_dim", "input_size"),
    "out": ("out_channels", "out_features", "num_features", "num_channels", "normalized_shape", "embed_dim"),
    "kernel": ("kernel_size",),
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
# Arguments that a class of torch keeps under another name.
_ELSEWHERE: dict[type[nn.Module], dict[str, str]] = {
    nn.MultiheadAttention: {"bias": "in_proj_bias", "add_bias_kv": "bias_k"},
    nn.TransformerEncoderLayer: {
        "d_model": "self_attn.embed_dim",
        "nhead": "self_attn.num_heads",
        "dim_feedforward": "linear1.out_features",
        "dropout": "dropout.p",
        "layer_norm_eps": "norm1.eps",
        "batch_first": "self_attn.batch_first",
        "bias": "linear1.bias",
    },
}
_TUPLES = (nn.MultiheadAttention, nn.RNNBase)  # what they give is no tensor, so that no input can stand for it


class MutationError(UserError):
    """A network cannot be mutated as asked for. The text names the operation, the path and the remedy."""


@dataclass
class Site:
    """One place, and what candidates there may refer to.

    Attributes:
        path: of the module, or of the owner and the call.
        module: what stands there; None for an insertion.
        values: by name, for $name.
    """

    path: str
    module: nn.Module | None
    values: dict[str, Any] = field(default_factory=dict)

    def choice(self, candidates: Mapping[str, Any], label: str) -> LayerChoice:
        """A LayerChoice of all candidates."""
        made = {name: self.make(candidate, f"candidate {name!r}") for name, candidate in candidates.items()}
        return LayerChoice(made, label=self.labelled(label))

    def labelled(self, label: str) -> str | None:
        """The label of this place; None where there is none."""
        return label.replace("{path}", self.path).replace("{parent}", self.path.rpartition(".")[0]) or None

    def chosen_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of an operation, made for this place: a list becomes a choice of its own."""
        made: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                made[name] = ValueChoice(value["choice"], label=self.labelled(value.get("label", "")))
            elif isinstance(value, Sequence) and not isinstance(value, str):
                made[name] = ValueChoice(value)
            else:
                made[name] = value
        return made

    def make(self, candidate: Any, what: str) -> nn.Module:
        """The module that a candidate stands for here.

        Args:
            candidate: keep, identity, a class or its name, {type, args}, {change}, a list of these, a module
                (copied), or a function of the replaced module.
            what: the candidate as an error names it.
        """
        if isinstance(candidate, list | tuple):
            return nn.Sequential(*(self.make(each, f"{what}[{i}]") for i, each in enumerate(candidate)))
        if isinstance(candidate, nn.Module):
            return candidate if candidate is self.module else copy.deepcopy(candidate)
        if isinstance(candidate, str) and candidate == KEEP:
            return self._original(what)
        if isinstance(candidate, str) and candidate in IDENTITY:
            return self._skip(what)
        if isinstance(candidate, str):
            return self._built(class_of(candidate, self.path), {}, what)
        if isinstance(candidate, Mapping) and "change" in candidate:
            return self._changed(self._original(what), self._args(candidate["change"], what), what)
        if isinstance(candidate, Mapping) and "type" in candidate:
            kind = candidate["type"]
            kind = class_of(kind, self.path) if isinstance(kind, str) else kind
            return self._built(kind, self._args(candidate.get("args", {}), what), what)
        if isinstance(candidate, type) and issubclass(candidate, nn.Module):
            return self._built(candidate, {}, what)
        if callable(candidate):
            return self._called(candidate, what)
        raise MutationError(
            f"{self.path}: {what} is {candidate!r}; expected keep, identity, a module, its class or that class's name, "
            "{type, args}, {change}, a list of these, or a function of the replaced module"
        )

    def _changed(self, original: nn.Module, changes: dict[str, Any], what: str) -> nn.Module:
        args, unknown = _arguments(original)
        missing = [name for name in unknown if name not in changes]
        if missing:
            raise MutationError(
                f"{self.path}: {what}: {type(original).__name__} does not keep its argument {missing[0]!r} as an "
                "attribute; give it in change too, or write {type, args}"
            )
        return self._built(type(original), {**args, **changes}, what)

    def _original(self, what: str) -> nn.Module:
        if self.module is None:
            raise MutationError(f"{self.path}: {what} needs a module to keep, and nothing stands there; use identity")
        return self.module

    def _skip(self, what: str) -> nn.Module:
        if isinstance(self.module, _TUPLES):
            raise MutationError(
                f"{self.path}: {what} passes on its input, but {type(self.module).__name__} gives a tuple, so that the "
                "network would take it apart; give a function of the module, or remove the whole layer around it"
            )
        return Skip()

    def _called(self, function: Callable[..., Any], what: str) -> nn.Module:
        made = function() if self.module is None else function(self.module)
        if not isinstance(made, nn.Module):
            raise MutationError(f"{self.path}: {what} made a {type(made).__name__}, not a torch.nn.Module")
        return made

    def _args(self, args: Mapping[str, Any], what: str) -> dict[str, Any]:
        return {name: self._argument(value, f"{what}, argument {name!r}") for name, value in args.items()}

    def _argument(self, value: Any, what: str) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._argument(each, what) for each in value)
        if isinstance(value, Mapping):
            return {key: self._argument(each, what) for key, each in value.items()}
        if not isinstance(value, str) or "$" not in value:
            return value
        names: dict[str, Any] = {}

        def hold(match: Any) -> str:
            key = f"_{len(names)}"
            names[key] = self._lookup(match.group(1), what)
            return key

        text = REFERENCE.sub(hold, value)
        try:
            return _evaluated(ast.parse(text.strip(), mode="eval").body, names)
        except (SyntaxError, TypeError, ZeroDivisionError) as error:
            raise MutationError(
                f"{self.path}: {what}: {value!r} cannot be computed ({error}); expected $name, numbers, "
                "+ - * / // % and parentheses"
            ) from None

    def _lookup(self, name: str, what: str) -> Any:
        if name in self.values:
            return self.values[name]
        for attribute in (name, *_ALIASES.get(name, ())):
            found = _attribute(self.module, attribute)
            if found is not _MISSING:
                return self._plain(found, attribute, what)
        known = [*self.values, *(_arguments(self.module)[0] if self.module is not None else ())]
        close = difflib.get_close_matches(name, known, n=1)
        there = f"a {type(self.module).__name__}" if self.module is not None else "nothing"
        raise MutationError(
            f"{self.path}: {what}: there is no ${name}: {there} stands here, and values has "
            + (", ".join(self.values) or "nothing")
            + (f"; did you mean ${close[0]}?" if close else "; write a number, or an attribute of the module")
        )

    def _plain(self, found: Any, attribute: str, what: str) -> Any:
        if attribute.rpartition(".")[2] == "bias":
            return found is not None and found is not False
        if isinstance(found, torch.Size | list | tuple) and found and all(each == found[0] for each in found):
            return found[0]
        if isinstance(found, nn.Module | torch.Tensor) or callable(found):
            raise MutationError(
                f"{self.path}: {what}: ${attribute} is a {type(found).__name__}; expected a number, text or boolean"
            )
        return found

    def _built(self, kind: Callable[..., nn.Module], args: dict[str, Any], what: str) -> nn.Module:
        try:
            inspect.signature(kind).bind(**args)
        except TypeError as error:
            raise MutationError(
                f"{self.path}: {what}: {kind.__name__} does not take the arguments {args}: {error}; its signature is "
                f"{inspect.signature(kind)}"
            ) from None
        try:
            return wrap(kind)(**args)
        except MutationError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError, UserError) as error:
            raise MutationError(
                f"{self.path}: {what}: {kind.__name__} cannot be made with {args}: {error or type(error).__name__}"
            ) from error


_MISSING = object()


def class_of(name: str, path: str = "") -> Any:
    """A class of modules by name: torch.nn.Conv2d, Conv2d, or module:Class.

    Raises:
        MutationError: there is none.
    """
    where = f"{path}: " if path else ""
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise MutationError(f"{where}{name} is not there: {error}; correct module:Class") from error
    else:
        short = name.removeprefix("torch.nn.")
        found = getattr(nn, short, None)
        if found is None:
            known = {each.lower(): each for each in dir(nn) if each[:1].isupper()}
            close = difflib.get_close_matches(short.lower(), known, n=1)
            hint = f"did you mean torch.nn.{known[close[0]]}?" if close else "write module:Class for other classes"
            raise MutationError(f"{where}torch.nn has no {short!r}; {hint}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise MutationError(f"{where}{name} is no class of torch.nn.Module")
    return found


def _arguments(module: nn.Module) -> tuple[dict[str, Any], list[str]]:
    """The arguments that a module was made with, as its attributes tell them, and the names of those they do not."""
    places = next((names for kind, names in _ELSEWHERE.items() if type(module) is kind), {})
    found: dict[str, Any] = {}
    unknown: list[str] = []
    for name in _parameters(type(module)):
        value = _attribute(module, places.get(name, name))
        if "bias" in name and (value is None or isinstance(value, torch.Tensor)):
            value = value is not None
        if value is _MISSING or isinstance(value, nn.Module | torch.Tensor):
            unknown.append(name)
        else:
            found[name] = value
    return found, unknown


def _parameters(kind: type[nn.Module]) -> list[str]:
    """The names of a class's arguments; where it hands all of them to its base, of the base's."""
    for each in kind.__mro__:
        if "__init__" in vars(each):
            parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
            if not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
                return [p.name for p in parameters if p.name not in ("device", "dtype", "mode") and p.name[0] != "_"]
    return []


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, _MISSING)
    return module


def _evaluated(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _evaluated(node.left, names), _evaluated(node.right, names)
        for side in (left, right):
            if not isinstance(side, int | float | Value):
                raise TypeError(f"{side!r} is no number")
        return _BINARY[type(node.op)](left, right)
    raise SyntaxError("not an expression that is known")
