"""scikit-learn's handwritten digits: 1,797 images of 8×8 with 17 grey levels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing, packaged_file

_FILE = "digits.csv.gz"


class Digits(DataSet):
    """Read from scikit-learn's own file without importing it: its import takes longer than a short trial."""

    name: ClassVar[str] = "digits"
    divisor: ClassVar[float] = 16.0
    has_test: ClassVar[bool] = False
    shape = (1, 8, 8)
    classes = 10

    def load(self) -> Arrays:
        import numpy as np

        file = self._file()
        try:
            text = gzip.decompress(file.read_bytes()).decode("ascii")
            values = (
                np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.float64)
                .astype(np.uint8)
                .reshape(-1, 65)
            )
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{file} is not scikit-learn's digits file: {error}; install scikit-learn again") from error
        return Arrays(values[:, :64].reshape(-1, 1, 8, 8).copy(), values[:, 64].astype(np.int64))

    def scaling(self, arrays: Arrays) -> Scaling:
        return Scaling(self.divisor, (0.30526,), (0.376049,))

    def _file(self) -> Path:
        if self.path is not None:
            file = self.path / _FILE if self.path.is_dir() else self.path
            if not file.is_file():
                raise missing(self.name, file, "leave dataPath out to take the copy in scikit-learn")
            return file
        return packaged_file(self.name, "sklearn", "scikit-learn", f"datasets/data/{_FILE}")
