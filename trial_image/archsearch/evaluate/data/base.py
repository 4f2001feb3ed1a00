"""What a data set is: arrays in memory, with the shape and the scaling that a network needs. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
    """Raw images and labels: uint8 (N, channels, height, width) and int64 (N,). No test set: None."""

    inputs: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_inputs: NDArray[np.uint8] | None = None
    test_labels: NDArray[np.int64] | None = None


class DataSet(ABC):
    """A labelled image data set at `path` (its own default place where that is None)."""

    name: ClassVar[str]
    divisor: ClassVar[float] = 255.0

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image. Raises UserError where the files that tell it are missing."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes."""

    @abstractmethod
    def load(self) -> Arrays:
        """Read everything.

        Raises:
            UserError: files are missing or damaged; the text names them and the remedy.
        """

    def scaling(self, arrays: Arrays) -> Scaling:
        """Mean and standard deviation by channel of the whole training set."""
        import numpy as np

        axes = (0, *range(2, arrays.inputs.ndim))
        # In exact integers, so that the constants do not depend on the order of a floating-point sum.
        count = arrays.inputs.size // arrays.inputs.shape[1]
        total = arrays.inputs.sum(axis=axes, dtype=np.int64)
        squares = np.square(arrays.inputs, dtype=np.uint32).sum(axis=axes, dtype=np.int64)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        deviation[deviation == 0] = self.divisor
        return Scaling(
            self.divisor,
            tuple(round(float(value) / self.divisor, 6) for value in mean),
            tuple(max(round(float(value) / self.divisor, 6), 1e-6) for value in deviation),
        )


def missing(name: str, looked: Any, remedy: str) -> UserError:
    return UserError(f"the data set {name!r} is not there: looked for {looked}; {remedy}")
