"""Tables of numbers: scikit-learn's small ones, and a CSV or npz file of the user's."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, missing, packaged_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Bundled(DataSet):
    """A table in scikit-learn's package; the last column is the class."""

    has_test: ClassVar[bool] = False
    file: ClassVar[str]

    def load(self) -> Arrays:
        import numpy as np

        file = packaged_file(self.name, "sklearn", "scikit-learn", f"datasets/data/{self.file}")
        rows = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float64)
        return Arrays(rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64))


class BreastCancer(_Bundled):
    """Wisconsin breast cancer (Street et al. 1993): 569 rows of 30 features, 2 classes."""

    name: ClassVar[str] = "breast-cancer"
    file: ClassVar[str] = "breast_cancer.csv"
    shape = (30,)
    classes = 2


class Wine(_Bundled):
    """Wine recognition (Forina 1988): 178 rows of 13 features, 3 classes."""

    name: ClassVar[str] = "wine"
    file: ClassVar[str] = "wine_data.csv"
    shape = (13,)
    classes = 3


class Diabetes(DataSet):
    """Diabetes progression (Efron et al. 2004): 442 rows of 10 features, one number to predict."""

    name: ClassVar[str] = "diabetes"
    has_test: ClassVar[bool] = False
    regression: ClassVar[bool] = True
    shape = (10,)
    classes = 1

    def load(self) -> Arrays:
        import numpy as np

        parts = []
        for name in ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"):
            file = packaged_file(self.name, "sklearn", "scikit-learn", f"datasets/data/{name}")
            parts.append(np.loadtxt(io.StringIO(gzip.decompress(file.read_bytes()).decode()), dtype=np.float32))
        return Arrays(parts[0], parts[1])


class Table(DataSet):
    """A CSV file with a header, or an npz file with `x` and `y` (and `x_test`, `y_test`).

    In a CSV file the column `target` (the last where empty) is the label, a number or a name; the others are features.
    In an npz file `x` is (N, features) or, as uint8, images (N, channels, height, width). A folder holds `train.csv`
    (`train.npz`) and, for a test set, `test.csv`.
    """

    name: ClassVar[str] = "table"
    needs_path: ClassVar[bool] = True

    def __init__(self, path: Path | None = None, target: str = "") -> None:
        super().__init__(path)
        self.target = target
        self._names: list[str] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._arrays.inputs.shape[1:]

    @property
    def classes(self) -> int:
        labels = self._arrays.labels
        if self.regression:
            return int(labels.shape[1]) if labels.ndim == 2 else 1
        return int(labels.max(initial=0)) + 1

    @property
    def class_names(self) -> list[str] | None:
        return self._names if self._arrays is not None else None

    def load(self) -> Arrays:
        return self._arrays

    @cached_property
    def _arrays(self) -> Arrays:
        file, test = self._files()
        if file.suffix == ".npz":
            return self._npz(file)
        inputs, labels = self._csv(file)
        self._names = None if self.regression else sorted(set(labels), key=_order)
        if test is None:
            return Arrays(inputs, self._numbered(labels, labels, file))
        test_inputs, test_labels = self._csv(test)
        if test_inputs.shape[1] != inputs.shape[1]:
            raise UserError(f"{test} has {test_inputs.shape[1]} features, {file} {inputs.shape[1]}: they must agree")
        return Arrays(
            inputs, self._numbered(labels, labels, file), test_inputs, self._numbered(test_labels, labels, test)
        )

    def _files(self) -> tuple[Path, Path | None]:
        path = self.path
        if path is not None and path.is_dir():
            for suffix in (".csv", ".npz"):
                if (train := path / f"train{suffix}").is_file():
                    test = path / f"test{suffix}"
                    return train, test if suffix == ".csv" and test.is_file() else None
            raise missing(self.name, f"{path}/train.csv or train.npz", "put one there, or give a file as dataPath")
        if path is None or not path.is_file():
            raise missing(self.name, path or "dataPath", "give a CSV or npz file as dataPath")
        if path.suffix not in (".csv", ".npz"):
            raise UserError(f"the data set {self.name!r} reads .csv and .npz files, dataPath is {path}")
        return path, None

    def _csv(self, file: Path) -> tuple[NDArray[Any], list[str]]:
        import numpy as np

        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                rows = [row for row in csv.reader(stream) if row]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file} cannot be read as CSV: {error}") from error
        if len(rows) < 2:
            raise UserError(f"{file} holds no rows below its header: it needs column names and examples")
        header = [name.strip() for name in rows[0]]
        if all(_is_number(name) for name in header):
            raise UserError(
                f"{file}: the first line ({', '.join(header[:4])}, …) holds numbers: put column names above it"
            )
        if self.target and self.target not in header:
            raise UserError(f"{file} has no column {self.target!r} (targetColumn); it has {', '.join(header)}")
        column = header.index(self.target) if self.target else len(header) - 1
        values, labels = np.empty((len(rows) - 1, len(header) - 1), dtype=np.float32), []
        for number, row in enumerate(rows[1:]):
            if len(row) != len(header):
                raise UserError(f"{file}: row {number + 2} has {len(row)} values, its header {len(header)}")
            labels.append(row[column].strip())
            features = [
                (name, text) for index, (name, text) in enumerate(zip(header, row, strict=True)) if index != column
            ]
            values[number] = [_number(text, f"{file}: row {number + 2}, column {name!r}") for name, text in features]
        return values, labels

    def _numbered(self, labels: list[str], of_training: list[str], file: Path) -> NDArray[Any]:
        """Class names as their places in sorted order (as numbers where all are)."""
        import numpy as np

        known = sorted(set(of_training), key=_order)
        unknown = sorted(set(labels) - set(known))
        if unknown:
            raise UserError(f"{file} has the label {unknown[0]!r}, which the training set has not")
        places = {name: index for index, name in enumerate(known)}
        return np.array([places[label] for label in labels], dtype=np.int64)

    def _npz(self, file: Path) -> Arrays:
        import numpy as np

        try:
            with np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{file} is no npz file of plain arrays: {error}") from error
        if not {"x", "y"} <= set(arrays):
            raise UserError(f"{file} holds {', '.join(arrays) or 'nothing'}; it needs x and y (and x_test, y_test)")
        parts: list[NDArray[Any] | None] = [None] * 4
        for place, end in ((0, ""), (2, "_test")):
            if f"x{end}" not in arrays:
                continue
            inputs, labels = arrays[f"x{end}"], arrays.get(f"y{end}")
            if labels is None or len(labels) != len(inputs) or inputs.ndim < 2:
                raise UserError(f"{file}: x{end} and y{end} must be (N, …) and (N,) with the same N")
            parts[place] = inputs if inputs.dtype == np.uint8 and inputs.ndim == 4 else inputs.astype(np.float32)
            parts[place + 1] = labels.astype(np.float32 if self.regression else np.int64)
        return Arrays(*parts)  # type: ignore[arg-type]  # the first two are there


class NumbersTable(Table):
    """As `Table`, with numbers to predict."""

    regression: ClassVar[bool] = True

    def _numbered(self, labels: list[str], of_training: list[str], file: Path) -> NDArray[Any]:
        import numpy as np

        return np.array(
            [_number(text, f"{file}: row {row + 2}, the target") for row, text in enumerate(labels)], dtype=np.float32
        )


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where} is {text!r}, expected a finite number: fill gaps and encode names before")
    return value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _order(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
