"""Writes docs/manifest.md from the models: ``python -m archsearch.spec.reference [--check]``."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from archsearch.spec.experiment import MUTABLE_FIELDS, ExperimentSpec
from archsearch.spec.status import ExperimentStatus

_DEFAULT_PATH = Path("docs/manifest.md")
_HEAD = """# Every field of a NASExperiment

Made from the models by `make crds`; do not edit. The same text is in `kubectl explain nasx.spec`.

The file is the same for `kubectl apply -f FILE` and `archsearch run FILE`. After creation only {mutable} may change.
Numbers that may have a fraction are decimal numbers in quotes (`"0.99"`); `config`, `args` and the pod's own fields
take any JSON.
"""


def reference() -> str:
    """The page as Markdown."""
    mutable = ", ".join(f"`{name}`" for name in MUTABLE_FIELDS)
    parts = [_HEAD.format(mutable=mutable)]
    for path, model in (("spec", ExperimentSpec), ("status", ExperimentStatus)):
        for table_path, table_model in _tables(path, model):
            parts.append(_table(table_path, table_model))
    return "\n".join(parts)


def _tables(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for info in model.model_fields.values():
        nested, is_list = _nested(info.annotation)
        if nested is not None:
            yield from _tables(f"{path}.{info.alias}{'[]' if is_list else ''}", nested)


def _table(path: str, model: type[BaseModel]) -> str:
    rows = [
        f"## `{path}`",
        "",
        (model.__doc__ or "").strip().split("\n\n")[0],
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for info in model.model_fields.values():
        meaning = (info.description or "").replace("|", "\\|")
        rows.append(f"| `{info.alias}` | {_type(info)} | {_default(info)} | {meaning} |")
    return "\n".join([*rows, ""])


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside an annotation, and whether a list stands around it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in get_args(annotation):
        model, is_list = _nested(inner)
        if model is not None:
            return model, is_list or get_origin(annotation) is list
    return None, False


def _type(info: FieldInfo) -> str:
    name = _type_name(info.annotation)
    return name + _bounds([*info.metadata, *_inner_metadata(info.annotation)])


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(part) for part in inner if part is not type(None))
    if origin is Literal:
        return " or ".join(str(part) for part in inner)
    if origin is list:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return "object" if inner[1] is Any else f"map of {_type_name(inner[1])}"
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return " \\| ".join(str(member.value) for member in annotation)  # type: ignore[attr-defined]
    return {str: "string", int: "integer", bool: "boolean", float: "number"}.get(annotation, "object")


def _inner_metadata(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return list(get_args(annotation)[1:])
    if get_origin(annotation) in (Union, types.UnionType):
        return [entry for part in get_args(annotation) for entry in _inner_metadata(part)]
    return []


def _bounds(metadata: list[Any]) -> str:
    flat = [entry for item in metadata for entry in (item.metadata if isinstance(item, FieldInfo) else [item])]
    low = next((entry.ge for entry in flat if isinstance(entry, Ge)), None)
    high = next((entry.le for entry in flat if isinstance(entry, Le)), None)
    shortest = next((entry.min_length for entry in flat if isinstance(entry, MinLen)), None)
    longest = next((entry.max_length for entry in flat if isinstance(entry, MaxLen)), None)
    if low is not None or high is not None:
        return f", {low} … {high}"
    if shortest is not None and longest is not None:
        return f", {shortest} … {longest} long"
    return ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{json.dumps(value)}`"


def main(arguments: list[str]) -> int:
    text = reference()
    if "--check" in arguments:
        return 0 if _DEFAULT_PATH.is_file() and _DEFAULT_PATH.read_text() == text else 1
    _DEFAULT_PATH.parent.mkdir(exist_ok=True)
    _DEFAULT_PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
