"""Folders of IDX files, the format of MNIST and its successors: {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]"""

from __future__ import annotations

import gzip
import math
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing
from archsearch.evaluate.data.cache import cached_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UNSIGNED_BYTE = 8


def read_idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, plain or gzipped by its name.

    Raises:
        UserError: another magic number, another number of dimensions, or a truncated file.
    """
    import numpy as np

    try:
        with _open(file) as stream:
            shape = _header(stream, file, dimensions)
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}; fetch the data set again") from error
    if len(data) != math.prod(shape):
        raise UserError(
            f"{file} holds {len(data)} bytes of data, its header says {math.prod(shape)} {shape}: "
            "fetch the data set again"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_unpacked(file: Path, dimensions: int) -> NDArray[np.uint8]:
    """As `read_idx`, but a gzipped file is unpacked once a worker."""
    if file.suffix != ".gz":
        return read_idx(file, dimensions)
    return cached_array(file, f"idx-{dimensions}", lambda: read_idx(file, dimensions))


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]  # GzipFile reads as any other


def _header(stream: IO[bytes], file: Path, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE or magic[3] != dimensions:
        raise UserError(
            f"{file} is no IDX file of unsigned bytes with {dimensions} dimensions: it starts with "
            f"{magic.hex() or 'nothing'}, expected 000008{dimensions:02x}"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) != 4 * dimensions:
        raise UserError(f"{file} ends within its header: fetch the data set again")
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))


class IdxFolder(DataSet):
    """Any folder with the four files under their customary names; the t10k pair may be absent."""

    name: ClassVar[str] = "idx"
    needs_path: ClassVar[bool] = True
    default: ClassVar[Path | None] = None
    remedy: ClassVar[str] = "give the folder of the IDX files as dataPath"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        file = self._file("train-images-idx3-ubyte")
        try:
            with _open(file) as stream:
                _, height, width = _header(stream, file, 3)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file} cannot be read: {error}; fetch the data set again") from error
        return (1, height, width)

    @cached_property
    def classes(self) -> int:
        return int(read_idx(self._file("train-labels-idx1-ubyte"), 1).max(initial=0)) + 1

    def load(self) -> Arrays:
        import numpy as np

        parts: list[NDArray[np.uint8] | NDArray[np.int64] | None] = []
        for prefix in ("train", "t10k"):
            if prefix == "t10k" and self._find(f"{prefix}-images-idx3-ubyte") is None:
                parts += [None, None]
                continue
            images = self._file(f"{prefix}-images-idx3-ubyte")
            labels = self._file(f"{prefix}-labels-idx1-ubyte")
            inputs, targets = read_unpacked(images, 3), read_idx(labels, 1)
            if len(inputs) != len(targets):
                raise UserError(
                    f"{images} holds {len(inputs)} images, {labels} {len(targets)} labels: they do not belong together"
                )
            parts += [inputs[:, None], targets.astype(np.int64)]
        return Arrays(*parts)  # type: ignore[arg-type]

    def _folder(self) -> Path:
        folder = self.path or self.default
        if folder is None:
            raise UserError(f"the data set {self.name!r} needs dataPath: {self.remedy}")
        return folder

    def _find(self, name: str) -> Path | None:
        folder = self._folder()
        # torchvision keeps the same files in NAME/raw, and some mirrors write a dot for the last dash.
        for place in (folder, folder / "raw"):
            for file in (
                place / name,
                place / f"{name}.gz",
                place / name.replace("-idx", ".idx"),
                place / f"{name.replace('-idx', '.idx')}.gz",
            ):
                if file.is_file():
                    return file
        return None

    def _file(self, name: str) -> Path:
        found = self._find(name)
        if found is None:
            raise missing(self.name, f"{self._folder() / name} (or .gz)", self.remedy)
        return found


class FashionMNIST(IdxFolder):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images of 28×28, 10 classes, as Debian's package has it."""

    name: ClassVar[str] = "fashion-mnist"
    needs_path: ClassVar[bool] = False
    default: ClassVar[Path | None] = Path("/usr/share/datasets/fashion-mnist")
    remedy: ClassVar[str] = (
        "install Debian's package dataset-fashion-mnist, or give the folder of the IDX files as dataPath"
    )

    def scaling(self, arrays: Arrays) -> Scaling:
        return Scaling(self.divisor, (0.286041,), (0.353024,))


class MNIST(IdxFolder):
    """MNIST (LeCun 1998) from its IDX files; torchvision's folder is taken too."""

    name: ClassVar[str] = "mnist"
    remedy: ClassVar[str] = "give the folder of MNIST's four IDX files (or torchvision's MNIST folder) as dataPath"

    def scaling(self, arrays: Arrays) -> Scaling:
        return Scaling(self.divisor, (0.1307,), (0.3081,))
