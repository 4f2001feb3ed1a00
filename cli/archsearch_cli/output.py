"""Results on stdout in the form that was asked for; everything else on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


def note(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit(value: Any, output: Format, columns: Sequence[str] = ()) -> None:
    """Write a result.

    Args:
        value: a list of objects, or one object (a table of its fields).
        columns: names of the fields that a table shows, in order; none: all. A dot leads into an object
            (metrics.accuracy). JSON, YAML and CSV always have every field.
    """
    if output is Format.JSON:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif output is Format.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))
    elif output is Format.CSV:
        _csv([_flat(row) for row in _rows(value)])
    else:
        _table(_rows(value), columns)
    sys.stdout.flush()


def _rows(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        return [{"field": key, "value": part} for key, part in value.items()]
    return list(value)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """metrics: {accuracy: 1} as metrics.accuracy: 1; an architecture stays one cell."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and name != "architecture":
            flat.update({f"{name}.{key}": part for key, part in value.items()})
        else:
            flat[name] = value
    return flat


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _field(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    part = row.get(outer)
    return part.get(inner) if inner and isinstance(part, Mapping) else None


def show(value: Any) -> str:
    """One cell: text as it is, numbers short, nothing for None, compact JSON for the rest."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _csv(rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = _names(rows)
    if names:
        writer.writerow(names)
    for row in rows:
        cells = (row.get(name) for name in names)
        writer.writerow([repr(cell) if isinstance(cell, float) else show(cell) for cell in cells])


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if not rows:
        note("nothing to show")
        return
    from rich.console import Console
    from rich.table import Table

    names = list(columns) or _names(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        number = all(isinstance(_field(row, name), (int, float, type(None))) for row in rows)
        table.add_column(_heading(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(show(_field(row, name))) for name in names))
    # A pipe has no width: every row keeps its one line.
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(table)


def _heading(name: str) -> str:
    return name.rpartition(".")[2].upper()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
