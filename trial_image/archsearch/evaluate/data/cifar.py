"""CIFAR-10 and CIFAR-100 from the files of their binary version, or as torchvision keeps them. Never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIXELS = 3 * 32 * 32


class _Cifar(DataSet):
    """50,000 + 10,000 images of 3×32×32. The binary version is preferred: torchvision unpickles its files."""

    shape = (3, 32, 32)
    needs_path: ClassVar[bool] = True
    source: ClassVar[str]
    folder: ClassVar[str]
    files: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]]
    label_bytes: ClassVar[int]
    constants: ClassVar[Scaling]

    def load(self) -> Arrays:
        train, test = self.files
        if (place := self._binary()) is not None:
            (inputs, labels), (test_inputs, test_labels) = self._read(place, train), self._read(place, test)
        else:
            (inputs, labels), (test_inputs, test_labels) = self._torchvision(train=True), self._torchvision(train=False)
        return Arrays(inputs, labels, test_inputs, test_labels)

    def scaling(self, arrays: Arrays) -> Scaling:
        return self.constants

    def _root(self) -> Path:
        if self.path is None:
            raise UserError(
                f"the data set {self.name!r} needs dataPath: the folder with {self.folder} (the binary version), or "
                f"the root folder that torchvision's {self.source} was given"
            )
        return self.path

    def _binary(self) -> Path | None:
        root = self._root()
        return next((place for place in (root, root / self.folder) if (place / self.files[1][0]).is_file()), None)

    def _read(self, place: Path, files: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        import numpy as np

        record = self.label_bytes + _PIXELS
        parts = []
        for name in files:
            file = place / name
            if not file.is_file():
                raise missing(self.name, file, f"put all files of {self.folder} there")
            data = np.fromfile(file, dtype=np.uint8)
            if not len(data) or len(data) % record:
                raise UserError(
                    f"{file} holds {len(data)} bytes, expected a multiple of {record} ({self.label_bytes} of labels, "
                    f"{_PIXELS} of pixels): fetch {self.folder} again"
                )
            parts.append(data.reshape(-1, record))
        records = np.concatenate(parts)
        # The last byte before the pixels is the (fine) label.
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        return records[:, self.label_bytes :].reshape(-1, 3, 32, 32).copy(), labels

    def _torchvision(self, *, train: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        import numpy as np

        root = self._root()
        try:
            from torchvision import datasets
        except ImportError as error:
            raise missing(
                self.name,
                f"{root / self.folder / self.files[1][0]} and the package torchvision",
                f"put the files of {self.folder} (the binary version) there, or pip install torchvision (the extra "
                "archsearch[vision] has it) to read its own files",
            ) from error
        try:
            found = getattr(datasets, self.source)(root=str(root), train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise missing(
                self.name,
                f"{root} ({error})",
                f"put {self.folder} or the files of torchvision's {self.source} there; they are not downloaded",
            ) from error
        images = np.ascontiguousarray(np.asarray(found.data, dtype=np.uint8).transpose(0, 3, 1, 2))
        return images, np.asarray(found.targets, dtype=np.int64)


class CIFAR10(_Cifar):
    """CIFAR-10 (Krizhevsky 2009)."""

    name: ClassVar[str] = "cifar10"
    source: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-bin"
    files: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        ("test_batch.bin",),
    )
    label_bytes: ClassVar[int] = 1
    classes = 10
    constants: ClassVar[Scaling] = Scaling(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class CIFAR100(_Cifar):
    """CIFAR-100 (Krizhevsky 2009), its 100 fine classes."""

    name: ClassVar[str] = "cifar100"
    source: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-binary"
    files: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("train.bin",), ("test.bin",))
    label_bytes: ClassVar[int] = 2
    classes = 100
    constants: ClassVar[Scaling] = Scaling(255.0, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
