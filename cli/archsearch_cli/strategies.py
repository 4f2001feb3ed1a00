"""`archsearch strategies`."""

from __future__ import annotations

import inspect
from typing import Any

from archsearch import registry
from archsearch.errors import UserError
from archsearch.spec.base import JsonObject
from archsearch.spec.explain import suggest
from archsearch_cli.output import Format, emit, note, show

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def show_strategies(name: str | None, output: Format) -> int:
    """List all strategies, or one."""
    known = registry.registered("archsearch.strategies")
    if name is not None and name not in known:
        raise UserError(f"no strategy is named {name!r}; {suggest(name, known)}")
    found = []
    for each in [name] if name else known:
        try:
            found.append(describe_strategy(each))
        except UserError as error:  # one that an installed package registers and cannot load
            note(f"warning: {error}")
    if output in (Format.TABLE, Format.CSV):
        emit([row for strategy in found for row in _rows(strategy)], output)
    else:
        emit(found, output)
    return 0


def describe_strategy(name: str) -> JsonObject:
    """A strategy's name, summary, and options with type, default and bounds."""
    strategy = registry.find("archsearch.strategies", name)
    schema = strategy.Config.model_json_schema(by_alias=True)
    required = schema.get("required", [])
    options = [
        _option(key, value, key in required, schema.get("$defs", {}))
        for key, value in schema.get("properties", {}).items()
    ]
    return {
        "name": name,
        "summary": (inspect.getdoc(strategy) or "").partition("\n")[0],
        "objectives": "several" if strategy.several_objectives else "one",
        "options": options,
    }


def _option(name: str, schema: JsonObject, required: bool, definitions: JsonObject) -> JsonObject:
    if "$ref" in schema:
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **schema}
    choices = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    merged: JsonObject = {**choices[0], **schema}
    bounds = [f"{sign} {show(merged[key])}" for key, sign in _BOUNDS.items() if key in merged]
    if "enum" in merged:
        bounds.append(" | ".join(str(each) for each in merged["enum"]))
    default: Any = merged.get("default")
    return {
        "name": name,
        "type": " or ".join(str(each.get("type", merged.get("type", "any"))) for each in choices),
        "required": required,
        "default": default,
        "bounds": ", ".join(bounds),
        "description": merged.get("description", ""),
    }


def _rows(strategy: JsonObject) -> list[JsonObject]:
    head = {"strategy": strategy["name"], "objectives": strategy["objectives"]}
    rows: list[JsonObject] = [
        {**head, "option": "", "type": "", "default": "", "bounds": "", "description": strategy["summary"]}
    ]
    for option in strategy["options"]:
        default = "required" if option["required"] else show(option["default"])
        rows.append(
            {
                "strategy": "",
                "objectives": "",
                "option": option["name"],
                "type": option["type"],
                "default": default,
                "bounds": option["bounds"],
                "description": option["description"],
            }
        )
    return rows
