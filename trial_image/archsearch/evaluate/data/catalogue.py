"""The data sets that an evaluator's configuration can name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from archsearch.errors import UserError
from archsearch.evaluate.data.base import DataSet
from archsearch.evaluate.data.digits import Digits
from archsearch.evaluate.data.idx import FashionMNIST, IdxFolder
from archsearch.evaluate.data.vision import CIFAR10, CIFAR100, MNIST

_KNOWN: dict[str, type[DataSet]] = {
    kind.name: kind for kind in (Digits, FashionMNIST, IdxFolder, MNIST, CIFAR10, CIFAR100)
}


def names() -> list[str]:
    """Sorted names of all data sets."""
    return sorted(_KNOWN)


@cache
def data_set(name: str, path: str = "") -> DataSet:
    """The data set of that name at `path`; its own default place where `path` is empty. Reads nothing yet.

    Raises:
        UserError: no data set of that name.
    """
    if name not in _KNOWN:
        raise UserError(f"no data set is named {name!r}; known here: {', '.join(names())}")
    return _KNOWN[name](Path(path) if path else None)
