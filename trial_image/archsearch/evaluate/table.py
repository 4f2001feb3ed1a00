"""Tables of measured architectures: the npz form, its columns and its search space. Needs numpy, no torch."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from archsearch.errors import UserError
from archsearch.space import SearchSpace
from archsearch.space.choices import Categorical, Choice, Subset
from archsearch.space.errors import listed, shown
from archsearch.space.known import known_space

Seeds = Literal["mean", "draw"]
Floats = NDArray[np.float64]

_COST = re.compile(r"\s*(?P<column>[^*\s]+)\s*(?:\*\s*(?P<factor>[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*)?$")
_OWN = ("ops", "candidates", "choices")
_MATRIX = ("values", "columns")  # a matrix and the names of its columns: as many metric columns


@dataclass(frozen=True)
class Cost:
    """Seconds from a table: a column times a factor."""

    column: str
    factor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Cost:
        """`COLUMN` or `COLUMN*FACTOR`.

        Raises:
            ValueError: it is neither, or the factor is not positive.
        """
        match = _COST.match(text)
        if match is None:
            raise ValueError(f"{text!r} is no cost: write COLUMN or COLUMN*FACTOR, for example train_seconds*0.06")
        factor = float(match["factor"] or 1.0)
        if not 0.0 < factor < math.inf:
            raise ValueError(f"the factor of the cost {text!r} must be a number above 0")
        return cls(match["column"], factor)


class Table:
    """Architectures by row, and what was measured of each.

    Args:
        ops: of shape (n, k), integers: row by row the index of each choice's candidate.
        space: k choices, in the order of the columns of `ops`.
        candidates: of each choice the decisions that the indices stand for.
        columns: by name, of shape (n,) or (n, seeds); NaN is a missing value.
        path: shown in errors.

    Raises:
        UserError: shapes, indices or names that do not fit, or two equal rows.
    """

    def __init__(
        self,
        ops: NDArray[Any],
        space: SearchSpace,
        candidates: Sequence[Sequence[Any]],
        columns: Mapping[str, NDArray[Any]],
        path: str = "the table",
    ) -> None:
        self.path = path
        self.space = space
        self.ops = _checked_ops(ops, candidates, path)
        self.candidates = tuple(tuple(each) for each in candidates)
        self.columns = {name: _checked_column(name, values, len(self.ops), path) for name, values in columns.items()}
        self._names = tuple(choice.name for choice in space.choices)
        self._index = [{_plain(option): i for i, option in enumerate(options)} for options in self.candidates]
        self._rows = {row.tobytes(): number for number, row in enumerate(self.ops)}
        self._means: dict[str, Floats] = {}
        if len(self._rows) < len(self.ops):
            _, first, counts = np.unique(self.ops, axis=0, return_index=True, return_counts=True)
            raise UserError(f"{path}: the architecture of row {first[counts > 1][0]} stands in several rows of ops")

    @classmethod
    def load(cls, path: str | Path, space: str | SearchSpace = "", choices: Sequence[str] = ()) -> Table:
        """Read an npz.

        Args:
            path: its `ops` (n, k) are indices of candidates; `candidates`, where it is there, a JSON text of k lists of
                names; `values` (n, m) with `columns` (m names), and every other array of n rows, are measurements.
            space: the search space, or the name of a zoo entry; needed for a table without `candidates`.
            choices: names of the choices in the order of the columns, where no space tells them. [the file's `choices`,
                a JSON text of k names, or else op0, op1, …]

        Raises:
            UserError: no such file, or it is no table; says what is wrong.
        """
        where = str(path)
        arrays = read_arrays(Path(path))
        if "ops" not in arrays or arrays["ops"].ndim != 2:
            raise UserError(
                f"{where} is no table of architectures: it needs an array ops of shape (rows, choices), and has "
                f"{listed(sorted(arrays)) or 'none'}"
            )
        ops = arrays["ops"]
        found = find_space(space) if isinstance(space, str) and space else space or None
        assert not isinstance(found, str)  # noqa: S101  # an empty name is None
        candidates = _candidates(arrays["candidates"], ops.shape[1], where) if "candidates" in arrays else None
        if found is None:
            if candidates is None:
                raise UserError(
                    f"{where} has no candidates, so its indices need a search space: name the zoo entry "
                    "(space in evaluator.config, --space of bench)"
                )
            found = _own_space(candidates, choices or _names(arrays, where), where)
        return cls(ops, found, _fitting(found, candidates, ops.shape[1], where), _columns(arrays, len(ops)), where)

    def __len__(self) -> int:
        return len(self.ops)

    def row(self, architecture: Mapping[str, Any]) -> int | None:
        """The row of an architecture; None where the table has none.

        Raises:
            UserError: it decides none of the table's choices by name, or a choice that the table lacks.
        """
        key = np.empty(self.ops.shape[1], self.ops.dtype)
        for at, name in enumerate(self._names):
            if name not in architecture:
                if not any(each in architecture for each in self._names):
                    raise UserError(
                        f"the architecture decides {listed(sorted(architecture))}, and the choices of {self.path} are "
                        f"{listed(self._names)}: name the space's own by `space` or `choices`"
                    )
                return None
            index = self._index[at].get(_plain(architecture[name]))
            if index is None:
                return None
            key[at] = index
        unknown = [name for name in architecture if name not in self._names]
        if unknown:
            raise UserError(f"the architecture decides {unknown[0]!r}, which is no choice of {self.path}")
        return self._rows.get(key.tobytes())

    def architecture(self, row: int) -> dict[str, Any]:
        """The decisions of a row."""
        return {
            name: options[index]
            for name, options, index in zip(self._names, self.candidates, self.ops[row], strict=True)
        }

    def check(self, column: str) -> None:
        """Raise UserError, naming those there are, where the table has no such column."""
        if column not in self.columns:
            raise UserError(f"{self.path} has no column {column!r}; it has {listed(sorted(self.columns))}")

    def means(self, column: str) -> Floats:
        """Of each row the mean over its seeds, shape (n,); NaN where nothing was measured.

        Raises:
            UserError: no such column.
        """
        if column not in self._means:
            self.check(column)
            values = self.columns[column]
            there = np.isfinite(values)
            counts = there.sum(axis=1)
            sums = np.where(there, values, 0.0).sum(axis=1)
            self._means[column] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return self._means[column]

    def value(self, row: int, column: str, seeds: Seeds = "mean", seed: int = 0) -> float | None:
        """A measurement; None where there is none.

        Args:
            seeds: mean: over the row's seeds. draw: one of them, chosen by `seed`.
        """
        if seeds == "mean":
            mean = float(self.means(column)[row])
            return None if math.isnan(mean) else mean
        self.check(column)
        values = self.columns[column][row]
        there = values[np.isfinite(values)]
        return float(there[seed % len(there)]) if len(there) else None

    def seconds(self, row: int, cost: Cost, seeds: Seeds = "mean", seed: int = 0) -> float | None:
        """What a measurement cost; None where it is not known. Arguments as `value`."""
        value = self.value(row, cost.column, seeds, seed)
        return None if value is None else value * cost.factor


@lru_cache(maxsize=4)
def _opened(path: str, stamp: int, space: str, choices: tuple[str, ...]) -> Table:
    return Table.load(path, space, choices)


def open_table(path: str, space: str = "", choices: Sequence[str] = ()) -> Table:
    """`Table.load`, once a process as long as the file does not change."""
    try:
        stamp = Path(path).stat().st_mtime_ns
    except OSError:
        stamp = 0  # `load` says what is wrong
    return _opened(path, stamp, space, tuple(choices))


def write_table(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write the arrays of a table as an npz, which appears when it is whole.

    Raises:
        UserError: it cannot be written there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def find_space(name: str) -> SearchSpace:
    """The search space of a zoo entry with its default arguments; needs torch for most.

    Raises:
        UserError: no such entry, or it needs torch and there is none.
    """
    known = known_space(name)
    if known is not None:
        return known
    from archsearch.registry import find

    try:
        from archsearch.evaluate.models import build_space, describe_space
    except ImportError:
        find("archsearch.spaces", name)
        raise UserError(f"the search space {name!r} needs torch: pip install 'archsearch[trial]'") from None
    from archsearch.spec.experiment import ModelSpace, ZooSpace

    return describe_space(build_space(ModelSpace(zoo=ZooSpace(name=name)))[0])


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an npz; UserError where there is none."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UserError(f"{path} is a single array; a table is an npz with an array ops")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise UserError(f"there is no table {path}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an npz: {error}") from error


def _candidates(array: NDArray[Any], width: int, where: str) -> list[list[Any]]:
    try:
        found = json.loads(str(array.item()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: candidates is no JSON text: {error}") from None
    sound = isinstance(found, list) and all(isinstance(each, list) and each for each in found)
    if not sound or len(found) != width:
        raise UserError(f"{where}: candidates must be {width} lists of names, one for each column of ops")
    return [list(each) for each in found]


def _names(arrays: Mapping[str, NDArray[Any]], where: str) -> list[str]:
    """What a file calls its choices; empty where it does not say."""
    if "choices" not in arrays:
        return []
    try:
        found = json.loads(str(arrays["choices"].item()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: choices is no JSON text: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UserError(f"{where}: choices must be a JSON list of names, and is {shown(found)}")
    return found


def _own_space(candidates: Sequence[Sequence[Any]], choices: Sequence[str], where: str) -> SearchSpace:
    names = list(choices) or [f"op{i}" for i in range(len(candidates))]
    if len(names) != len(candidates):
        raise UserError(f"{where} has {len(candidates)} choices, and {len(names)} names are given for them")
    return SearchSpace(
        [Categorical(name, tuple(map(str, options))) for name, options in zip(names, candidates, strict=True)]
    )


def _fitting(
    space: SearchSpace, candidates: Sequence[Sequence[Any]] | None, width: int, where: str
) -> list[Sequence[Any]]:
    """The decisions that a table's indices stand for, checked against the space's."""
    choices = space.choices
    if len(choices) != width:
        raise UserError(f"{where} has {width} choices, and the search space has {len(choices)}")
    fitting: list[Sequence[Any]] = []
    for at, choice in enumerate(choices):
        own = _decisions(choice)
        if candidates is None:
            fitting.append(own)
            continue
        by_name = {_plain(option): option for option in own}
        for option in candidates[at]:
            if _plain(option) not in by_name:
                raise UserError(f"{where}: choice {choice.name!r} of the search space has no candidate {option!r}")
        fitting.append([by_name[_plain(option)] for option in candidates[at]])
    return fitting


def _decisions(choice: Choice) -> Sequence[Any]:
    return list(choice.iterate()) if isinstance(choice, Subset) else choice.options


def _columns(arrays: Mapping[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
    values, names = (arrays.get(name) for name in _MATRIX)
    matrix = values is not None and names is not None and values.ndim == 2 and names.shape == values.shape[1:]
    taken = (*_OWN, *_MATRIX) if matrix else _OWN
    found = {
        name: array
        for name, array in arrays.items()
        if name not in taken and array.ndim in (1, 2) and len(array) == rows and array.dtype.kind in "biuf"
    }
    if matrix and values is not None and names is not None and len(values) == rows:
        found |= {str(name): values[:, at] for at, name in enumerate(names)}
    return found


def _checked_ops(ops: NDArray[Any], candidates: Sequence[Sequence[Any]], path: str) -> NDArray[Any]:
    if ops.dtype.kind not in "iu" or not len(ops):
        raise UserError(f"{path}: ops must hold at least one row of integers, and is {ops.dtype} of shape {ops.shape}")
    for at, options in enumerate(candidates):
        low, high = int(ops[:, at].min()), int(ops[:, at].max())
        if low < 0 or high >= len(options):
            raise UserError(f"{path}: column {at} of ops has indices {low} to {high}, for {len(options)} candidates")
    return np.ascontiguousarray(ops, np.int64)


def _checked_column(name: str, values: NDArray[Any], rows: int, path: str) -> Floats:
    if values.ndim not in (1, 2) or len(values) != rows:
        raise UserError(
            f"{path}: the column {name!r} has the shape {values.shape}, expected ({rows},) or ({rows}, seeds)"
        )
    return np.asarray(values, np.float64).reshape(rows, -1)


def _plain(decision: Any) -> str:
    """One text for a decision, whether it comes as a tuple, a JSON list or a name in a table."""
    if isinstance(decision, list | tuple):
        return json.dumps(list(decision))
    return decision if isinstance(decision, str) else json.dumps(decision)
