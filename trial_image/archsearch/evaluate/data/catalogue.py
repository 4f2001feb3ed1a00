"""The data sets that an evaluator's configuration can name."""

from __future__ import annotations

from functools import cache

from archsearch.errors import UserError
from archsearch.evaluate.data.base import DataSet, placed
from archsearch.evaluate.data.cifar import CIFAR10, CIFAR100
from archsearch.evaluate.data.digits import Digits
from archsearch.evaluate.data.folder import ImageFolder
from archsearch.evaluate.data.idx import MNIST, FashionMNIST, IdxFolder
from archsearch.evaluate.data.mnist5k import MNIST5k
from archsearch.evaluate.data.tables import BreastCancer, Diabetes, NumbersTable, Table, Wine

_CLASSES: dict[str, type[DataSet]] = {
    kind.name: kind
    for kind in (
        *(Digits, FashionMNIST, MNIST, MNIST5k, IdxFolder, CIFAR10, CIFAR100, ImageFolder),
        *(BreastCancer, Wine, Table),
    )
}
_NUMBERS: dict[str, type[DataSet]] = {kind.name: kind for kind in (Diabetes, NumbersTable)}


def names(*, regression: bool = False) -> list[str]:
    """Sorted names of all data sets with classes, or of all with numbers to predict."""
    return sorted(_NUMBERS if regression else _CLASSES)


def kind_of(name: str, *, regression: bool = False) -> type[DataSet]:
    """The class of the data set of that name.

    Raises:
        UserError: no data set of that name.
    """
    known = _NUMBERS if regression else _CLASSES
    if name not in known:
        what = "with numbers to predict " if regression else ""
        raise UserError(f"no data set {what}is named {name!r}; known here: {', '.join(sorted(known))}")
    return known[name]


@cache
def data_set(name: str, path: str = "", *, regression: bool = False, **options: str | int) -> DataSet:
    """The data set of that name at `path`; its own default place where `path` is empty. Reads nothing yet.

    Args:
        options: further arguments of the data set's class, such as `target` of a table.

    Raises:
        UserError: no data set of that name.
    """
    return kind_of(name, regression=regression)(placed(path), **options)
