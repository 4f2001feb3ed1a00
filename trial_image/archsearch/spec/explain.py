"""Pydantic's validation errors as problems of a manifest: path, value, what was expected, remedy."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from archsearch.spec import base
from archsearch.spec.problems import MISSING, Problem

# What a pattern means, for people. A pattern without words is shown as it is.
_PATTERNS: dict[str, str] = {}
for _type, _meaning in (
    (base.Decimal, 'expected a decimal number in quotes, for example "0.99"'),
    (base.MetricName, "expected the name of a metric: letters, digits and _ . / -, starting with a letter or _"),
    (base.DnsLabel, "expected the name of a Kubernetes object: lower-case letters, digits, hyphens and dots"),
    (base.EntryName, "expected a name of lower-case letters, digits and hyphens"),
    (base.PythonTarget, "expected module:name, for example my_space:Net"),
    (base.HttpUrl, "expected http://host:port or https://host:port without user and password"),
):
    for _constraint in get_args(_type)[1:]:
        _PATTERNS[str(_constraint.pattern)] = _meaning
_NAME_WORDS = (
    "expected at most 40 lower-case letters, digits and hyphens, starting with a letter, ending with a letter or digit"
)

_PLAIN = re.compile(r"^([-+]?[0-9.]+([eE][-+]?[0-9]+)?|true|false)$")
_TYPES = {
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "finite_number": "expected a finite number",
}


def suggest(word: str, known: Sequence[str]) -> str:
    """'did you mean X?' where a known word is close, else the known words."""
    by_fold = {each.replace("_", "").replace("-", "").lower(): each for each in known}
    found = difflib.get_close_matches(word.replace("_", "").replace("-", "").lower(), list(by_fold), n=1, cutoff=0.65)
    if found:
        return f"did you mean {by_fold[found[0]]!r}?"
    return f"known here: {', '.join(sorted(known))}" if known else ""


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Any, *, prefix: str = "", within: str = ""
) -> list[Problem]:
    """One problem for each fault.

    Args:
        error: what validating `document` against `model` raised.
        prefix: path of the document in the manifest, for example spec.strategy.config.
        within: what has the options, for an unknown one: "strategy 'random'".
    """
    found: dict[str, Problem] = {}
    for fault in error.errors(include_url=False):
        location = _location(fault, document)
        problem = _problem(fault, location, model, prefix=prefix, within=within)
        key = f"{problem.path} {fault['type'] if fault['type'] == 'value_error' else ''}"
        if key in found and found[key].message != problem.message:  # the branches of a union
            merged = f"{found[key].message} or {problem.message.removeprefix('expected ')}"
            found[key] = Problem(problem.path, merged, problem.value, problem.remedy or found[key].remedy)
        else:
            found.setdefault(key, problem)
    return list(found.values())


def show_path(location: Sequence[str | int], prefix: str = "") -> str:
    """spec.objectives[0].metric, as the API server writes it."""
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "the manifest"


def field_model(model: type[BaseModel], location: Sequence[str | int]) -> Any:
    """The annotation at a place below `model`; None where the models do not say."""
    here: Any = model
    for part in location:
        options = list(_branches(here))
        here = None
        for option in options:
            if isinstance(part, int) and get_origin(option) in (list, tuple):
                here = get_args(option)[0]
            elif isinstance(option, type) and issubclass(option, BaseModel):
                here = next((f.annotation for n, f in option.model_fields.items() if (f.alias or n) == part), here)
        if here is None:
            return None
    return here


def names_of(model: type[BaseModel]) -> list[str]:
    """The names of a model's fields as the manifest has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def accepts_only_text(annotation: Any) -> bool:
    """A field of text (or nothing), where a number in YAML was meant as text."""
    return {option for option in _branches(annotation) if option is not type(None)} == {str}


def _branches(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _branches(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _branches(each)
    else:
        yield annotation


def _location(fault: ErrorDetails, document: Any) -> tuple[str | int, ...]:
    """The part of pydantic's location that is in the document: names of a union's branches are left out."""
    here, kept = document, list[str | int]()
    for part in fault["loc"]:
        if (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        ):
            here = here[part]  # type: ignore[index]
            kept.append(part)
        elif fault["type"] == "missing" and part == fault["loc"][-1]:
            kept.append(part)
        else:
            break
    return tuple(kept)


def _problem(
    fault: ErrorDetails, location: tuple[str | int, ...], model: type[BaseModel], *, prefix: str, within: str
) -> Problem:
    path, kind = show_path(location, prefix), fault["type"]
    if kind == "missing":
        return Problem(path, "is required and missing", remedy=_describe(model, location))
    if kind == "extra_forbidden":
        return Problem(
            path, f"no such {'option of ' + within if within else 'field'}", fault["input"], _unknown(model, location)
        )
    if kind in ("value_error", "assertion_error"):
        # The fault lies between fields: their whole value says nothing that the message does not.
        value = MISSING if isinstance(fault["input"], (dict, BaseModel)) else fault["input"]
        return Problem(path, str(fault["msg"]).removeprefix("Value error, "), value)
    return Problem(path, _expected(fault, location), fault["input"], _remedy(fault, model, location))


def _expected(fault: ErrorDetails, location: tuple[str | int, ...]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        words = _NAME_WORDS if location[-1:] == ("name",) and "metadata" in location else None
        return words or _PATTERNS.get(pattern, f"expected text of the form {pattern}")
    bounds = {
        "greater_than_equal": ("ge", "expected {} or more"),
        "less_than_equal": ("le", "expected {} or less"),
        "greater_than": ("gt", "expected more than {}"),
        "less_than": ("lt", "expected less than {}"),
        "string_too_long": ("max_length", "expected at most {} characters"),
        "string_too_short": ("min_length", "expected at least {} characters"),
        "too_long": ("max_length", "expected at most {} entries"),
        "too_short": ("min_length", "expected at least {} entries"),
        "enum": ("expected", "expected {}"),
        "literal_error": ("expected", "expected {}"),
    }
    if kind in bounds:
        key, form = bounds[kind]
        return form.format(context[key])
    return _TYPES.get(kind, str(fault["msg"]))


def _remedy(fault: ErrorDetails, model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    value = fault["input"]
    if fault["type"] == "string_type" and isinstance(value, (int, float, bool)):
        return "put it in quotes"
    if fault["type"] in ("int_type", "bool_type", "float_type") and isinstance(value, str) and _PLAIN.match(value):
        return "write it without quotes"
    if fault["type"] in ("enum", "literal_error") and isinstance(value, str):
        hint = suggest(value, _words(field_model(model, location)))
        return hint if hint.startswith("did") else ""
    return ""


def _words(annotation: Any) -> list[str]:
    words: list[str] = []
    for option in _branches(annotation):
        if get_origin(option) is Literal:
            words += [str(each) for each in get_args(option)]
        elif isinstance(option, type) and issubclass(option, Enum):
            words += [str(each.value) for each in option]
    return words


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    for option in _branches(field_model(model, location)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _describe(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    parent = _model_at(model, location[:-1])
    for name, field in parent.model_fields.items() if parent else ():
        if (field.alias or name) == location[-1]:
            return field.description or ""
    return ""


def _unknown(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """For a field that does not exist: where it belongs, a close name, or what there is."""
    parent = _model_at(model, location[:-1])
    known = names_of(parent) if parent else []
    elsewhere = [where for where in _find(model, str(location[-1])) if where != location[:-1]]
    return f"it belongs in {show_path(elsewhere[0])}" if elsewhere else suggest(str(location[-1]), known)


def _find(model: type[BaseModel], name: str, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Places below `model`, lists left out, that have a field of that name."""
    if name in names_of(model):
        yield at
    for key, field in model.model_fields.items():
        for option in _branches(field.annotation):
            if isinstance(option, type) and issubclass(option, BaseModel):
                yield from _find(option, name, (*at, field.alias or key))
