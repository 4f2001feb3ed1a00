"""Tables of zero-cost proxies, beside a table of measured architectures. Needs numpy, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsearch.errors import UserError
from archsearch.evaluate.proxies import SIZES, Proxy
from archsearch.evaluate.table import Table, read_arrays
from archsearch.space.errors import listed
from archsearch.spec.base import JsonObject

_OTHER_NAMES = {Proxy.NASWOT.value: "nwot"}  # as NAS-Bench-Suite-Zero calls it


class ScoreTable:
    """Scores by row of `table`.

    Args:
        values: (rows, columns); what is not finite is no score.
        columns: their names.
        index: of each row of `values` the row of `table`; None: the same.

    Raises:
        UserError: the shapes do not fit, or an index is no row.
    """

    def __init__(
        self, table: Table, values: NDArray[Any], columns: Sequence[str], index: NDArray[Any] | None, path: str
    ) -> None:
        rows = np.arange(len(values)) if index is None else np.asarray(index).astype(np.int64)
        if values.ndim != 2 or values.shape != (len(rows), len(columns)):
            raise UserError(
                f"{path}: values has the shape {values.shape}, expected ({len(rows)}, {len(columns)}), a row for each "
                "of index and a column for each of columns"
            )
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
            raise UserError(f"{path}: its rows go to {rows.max()}, and {table.path} has {len(table)} rows")
        self._table, self._path = table, path
        self._values = np.asarray(values, np.float64)
        self._columns = {name: number for number, name in enumerate(columns)}
        self._places = {int(row): place for place, row in enumerate(rows)}

    @classmethod
    def load(cls, path: str, table: Table) -> ScoreTable:
        """Read an npz with `values`, `columns` and, where the rows are not those of `table`, `index`.

        Raises:
            UserError: no such file, or it has other contents.
        """
        arrays = read_arrays(Path(path))
        if not {"values", "columns"} <= set(arrays):
            raise UserError(
                f"{path} is no table of proxies: it needs arrays values (rows, columns) and columns (names), and has "
                f"{listed(sorted(arrays)) or 'none'}"
            )
        return cls(table, arrays["values"], [str(name) for name in arrays["columns"]], arrays.get("index"), path)

    def payload(
        self, architectures: Sequence[Mapping[str, Any]], names: Sequence[str], own: Mapping[str, str]
    ) -> JsonObject:
        """What a trial of the kind proxy gives for these architectures.

        Args:
            own: columns by proxy, where they have names of their own.

        Raises:
            UserError: a proxy has no column; a size may have one in the table of architectures instead.
        """
        columns = {name: self._column(name, own) for name in names}
        reasons: dict[str, str] = {}
        scores: list[JsonObject | None] = []
        for number, architecture in enumerate(architectures):
            row = self._table.row(architecture)
            place = None if row is None else self._places.get(row)
            if row is None or place is None:
                reasons[str(number)] = f"{self._path} has no row for it"
                scores.append(None)
                continue
            scores.append({name: self._value(row, place, column) for name, column in columns.items()})
        return {"scores": scores, "reasons": reasons, "leftOut": {}}

    def _column(self, name: str, own: Mapping[str, str]) -> int | str:
        """A column of the scores by number, or of the table of architectures by name."""
        for each in (own[name],) if name in own else (name, _OTHER_NAMES.get(name, name)):
            if each in self._columns:
                return self._columns[each]
            if name in SIZES and each in self._table.columns:
                return each
        raise UserError(
            f"{self._path} has no column {own.get(name, name)!r}; it has {listed(sorted(self._columns))}: leave the "
            "proxy out, or name its column in evaluator.config.proxies.columns"
        )

    def _value(self, row: int, place: int, column: int | str) -> float | None:
        value = float(self._values[place, column]) if isinstance(column, int) else self._table.value(row, column)
        return value if value is not None and math.isfinite(value) else None


@lru_cache(maxsize=4)
def _opened(path: str, stamp: int, table: Table) -> ScoreTable:
    return ScoreTable.load(path, table)


def open_scores(path: str, table: Table) -> ScoreTable:
    """`ScoreTable.load`, once a process as long as the file does not change."""
    try:
        stamp = Path(path).stat().st_mtime_ns
    except OSError:
        stamp = 0  # `load` says what is wrong
    return _opened(path, stamp, table)
