"""NNI's search-space JSON (classic NAS, 1.x and 2.x) and its architecture JSON, in and out.

``{key: {"_type": "layer_choice", "_value": [names]}}``, ``{key: {"_type": "input_choice", "_value": {"candidates":
[...], "n_chosen": k|null}}}`` and, for values, ``{key: {"_type": "choice", "_value": [values]}}``. An architecture is
``{key: {"_value": name|[names], "_idx": i|[i...]}}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archsearch.space.architecture import Architecture
from archsearch.space.choices import Categorical, Choice, Decision, Ordinal, Scalar, Subset
from archsearch.space.errors import ArchitectureError, SpaceError, shown
from archsearch.space.space import SearchSpace


def space_from_nni(document: Any) -> SearchSpace:
    """The search space of NNI's JSON.

    Inputs without distinct names (NNI writes empty strings for an input choice by number) are numbered from 0.

    Raises:
        SpaceError: not such a document; the text names the key.
    """
    if not isinstance(document, dict):
        raise SpaceError(f"NNI's search space is an object {{key: choice}}, not {shown(document)}")
    return SearchSpace(_choice(str(key), value) for key, value in document.items())


def _choice(key: str, value: Any) -> Choice:
    if not isinstance(value, dict) or not {"_type", "_value"} <= value.keys():
        raise SpaceError(f"{key}: expected an object with _type and _value, not {shown(value)}")
    kind, body = value["_type"], value["_value"]
    if kind == "input_choice":
        if not isinstance(body, dict) or not isinstance(body.get("candidates"), list):
            raise SpaceError(f"{key}._value: expected {{candidates: [...], n_chosen: k or null}}, not {shown(body)}")
        return Subset(key, _inputs(body["candidates"]), body.get("n_chosen"))
    if kind not in ("layer_choice", "choice"):
        raise SpaceError(f"{key}._type: {shown(kind)} is not known; expected layer_choice, input_choice or choice")
    if not isinstance(body, list) or any(not isinstance(v, str | int | float) for v in body):
        raise SpaceError(
            f"{key}._value: expected a list of {'names' if kind == 'layer_choice' else 'values'}, not {shown(body)}"
        )
    return Categorical(key, tuple(body)) if kind == "layer_choice" else Ordinal(key, tuple(body))


def _inputs(names: list[Any]) -> tuple[int | str, ...]:
    numbers = tuple(range(len(names)))
    if names in ([str(i) for i in numbers], list(numbers)) or all(name == "" for name in names):
        return numbers
    if any(not isinstance(name, str) for name in names):
        raise SpaceError(f"the names of inputs are strings, not {shown(names)}")
    return tuple(names)


def space_to_nni(space: SearchSpace) -> dict[str, Any]:
    """NNI's JSON of a space. Conditions have no form there and are left out; decisions of inactive choices are ignored.

    Raises:
        SpaceError: the space has constraints, which NNI's JSON cannot carry.
    """
    if space.constraints or space.predicates:
        raise SpaceError("NNI's search-space JSON has no constraints, and this space has; export its own JSON instead")
    document: dict[str, Any] = {}
    for choice in space:
        if isinstance(choice, Subset):
            body: Any = {"candidates": [str(c) for c in choice.candidates], "n_chosen": choice.choose}
            document[choice.name] = {"_type": "input_choice", "_value": body}
        else:
            kind = "layer_choice" if isinstance(choice, Categorical) else "choice"
            document[choice.name] = {"_type": kind, "_value": list(choice.options)}
    return document


def architecture_from_nni(space: SearchSpace, document: Any) -> Architecture:
    """The architecture of NNI's JSON, validated.

    Each decision may be NNI's object or bare: a name, an index, a list, a multi-hot list.

    Raises:
        ArchitectureError: not an architecture of this space; the text names the choice.
    """
    if not isinstance(document, Mapping):
        raise ArchitectureError(f"NNI's architecture is an object {{key: decision}}, not {shown(document)}")
    return space.validate(
        {key: _decision(space[key], value) if key in space else "" for key, value in document.items()}
    )


def _decision(choice: Choice, value: Any) -> Any:
    if isinstance(value, Mapping):
        if "_idx" in value:
            index = value["_idx"]
            indices = list(index) if isinstance(index, list | tuple) else [index]
            picked = [_by_index(choice, i) for i in indices]
            return picked if isinstance(choice, Subset) else _single(choice, picked)
        value = value.get("_value")
    options = choice.options
    if isinstance(value, list | tuple):
        if len(value) == len(options) and value and all(isinstance(v, bool) for v in value):
            value = [option for option, chosen in zip(options, value, strict=True) if chosen]
        if not isinstance(choice, Subset):
            return _scalar(choice, _single(choice, value))
        texts = {str(option): option for option in options}
        return [texts.get(v, v) if isinstance(v, str) else v for v in value]
    if isinstance(choice, Subset):
        texts = {str(option): option for option in options}
        return [texts.get(value, value) if isinstance(value, str) else value]
    return _scalar(choice, value)


def _scalar(choice: Choice, value: Any) -> Any:
    """A name or value as it is; for a layer choice also an index."""
    if isinstance(choice, Categorical) and isinstance(value, int) and not isinstance(value, bool):
        return _by_index(choice, value)
    return value


def _single(choice: Choice, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise ArchitectureError(f"{choice.where}: {shown(list(values))} is not {choice.expected()}")
    return values[0]


def _by_index(choice: Choice, index: Any) -> Scalar:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choice.options):
        raise ArchitectureError(f"{choice.where}: {shown(index)} is not an index from 0 to {len(choice.options) - 1}")
    return choice.options[index]


def architecture_to_nni(space: SearchSpace, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """NNI's JSON of an architecture, which is validated first."""
    valid = space.validate(architecture)
    return {name: _written(space[name], decision) for name, decision in valid.items()}


def _written(choice: Choice, decision: Decision) -> dict[str, Any]:
    if isinstance(decision, tuple):
        return {"_value": [str(v) for v in decision], "_idx": [choice.options.index(v) for v in decision]}
    return {"_value": decision, "_idx": choice.options.index(decision)}
