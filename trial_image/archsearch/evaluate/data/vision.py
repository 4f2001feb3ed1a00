"""Data sets that torchvision reads. It is asked only for files that are there: nothing is downloaded."""

from __future__ import annotations

from typing import Any, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing
from archsearch.evaluate.data.idx import IdxFolder


class MNIST(IdxFolder):
    """MNIST (LeCun 1998) from its IDX files; torchvision's folder is taken too."""

    name: ClassVar[str] = "mnist"
    remedy: ClassVar[str] = "give the folder of MNIST's four IDX files (or torchvision's MNIST folder) as dataPath"

    def scaling(self, arrays: Arrays) -> Scaling:
        return Scaling(self.divisor, (0.1307,), (0.3081,))


class _TorchVision(DataSet):
    """50,000 + 10,000 images of 3×32×32 as torchvision's class of the same purpose keeps them under its root."""

    shape = (3, 32, 32)
    source: ClassVar[str]
    constants: ClassVar[Scaling]

    def load(self) -> Arrays:
        (inputs, labels), (test_inputs, test_labels) = self._part(train=True), self._part(train=False)
        return Arrays(inputs, labels, test_inputs, test_labels)

    def scaling(self, arrays: Arrays) -> Scaling:
        return self.constants

    def _part(self, *, train: bool) -> tuple[Any, Any]:
        import numpy as np

        if self.path is None:
            raise UserError(
                f"the data set {self.name!r} needs dataPath: the root folder that torchvision's {self.source} was given"
            )
        try:
            from torchvision import datasets
        except ImportError as error:
            raise missing(
                self.name, "the package torchvision", "pip install torchvision (the extra archsearch[vision] has it)"
            ) from error
        try:
            found = getattr(datasets, self.source)(root=str(self.path), train=train, download=False)
        except (RuntimeError, OSError) as error:
            raise missing(
                self.name,
                f"{self.path} ({error})",
                f"put the files of torchvision's {self.source} there; they are not downloaded",
            ) from error
        images = np.ascontiguousarray(np.asarray(found.data, dtype=np.uint8).transpose(0, 3, 1, 2))
        return images, np.asarray(found.targets, dtype=np.int64)


class CIFAR10(_TorchVision):
    """CIFAR-10 (Krizhevsky 2009)."""

    name: ClassVar[str] = "cifar10"
    source: ClassVar[str] = "CIFAR10"
    classes = 10
    constants: ClassVar[Scaling] = Scaling(255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class CIFAR100(_TorchVision):
    """CIFAR-100 (Krizhevsky 2009)."""

    name: ClassVar[str] = "cifar100"
    source: ClassVar[str] = "CIFAR100"
    classes = 100
    constants: ClassVar[Scaling] = Scaling(255.0, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
