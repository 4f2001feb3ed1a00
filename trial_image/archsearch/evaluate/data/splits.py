"""The examples of one evaluator configuration as tensors: loaded once a process. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from archsearch.errors import UserError
from archsearch.evaluate.data.base import DataSet, Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from archsearch.evaluate.options import DataConfig

# Up to this many values the whole set is scaled once (256 MiB of float32); above, each batch is.
SCALE_AT_ONCE = 2**26
# Up to this many bytes a part lies on the device; above, its batches are sent there.
HELD_ON_DEVICE = 2**32


@dataclass(frozen=True)
class Part:
    """Inputs (N, …) and labels (N, …). With `rows`, example i is row ``rows[i]`` of both, which may be mapped files."""

    inputs: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels if self.rows is None else self.rows)

    def to(self, device: str) -> Part:
        """On `device`, if it is small enough to be held there."""
        if device == "cpu" or self.inputs.nbytes > HELD_ON_DEVICE:
            return self
        rows = self.rows.to(device) if self.rows is not None else None
        return Part(self.inputs.to(device), self.labels.to(device), rows)

    def batch(self, chosen: Tensor, device: str) -> tuple[Tensor, Tensor]:
        """Inputs and labels of the examples that `chosen` (int64, on the CPU) names, on `device`."""
        chosen = chosen.to(self.inputs.device)
        rows = chosen if self.rows is None else self.rows.index_select(0, chosen)
        return self.inputs.index_select(0, rows).to(device), self.labels.index_select(0, rows).to(device)


@dataclass(frozen=True)
class Split:
    """Training and validation examples. `scaling` is None where inputs are taken as they are (token numbers)."""

    train: Part
    validation: Part
    scaling: Scaling | None

    def prepare(self, inputs: Tensor) -> Tensor:
        """A batch as the network takes it: float32 and scaled, or token numbers."""
        if self.scaling is None or inputs.dtype != torch.uint8:
            return inputs
        return scale(inputs, self.scaling)


def scale(inputs: Tensor, scaling: Scaling) -> Tensor:
    """``(inputs / divisor - mean) / std`` by channel, as float32."""
    shape = (1, -1, *(1 for _ in inputs.shape[2:]))
    mean = torch.tensor(scaling.mean, dtype=torch.float32, device=inputs.device).view(shape)
    std = torch.tensor(scaling.std, dtype=torch.float32, device=inputs.device).view(shape)
    return inputs.to(torch.float32, copy=True).div_(scaling.divisor).sub_(mean).div_(std)


@lru_cache(maxsize=2)
def split(source: DataSet, config: DataConfig) -> Split:
    """Training and validation examples of `config`; equal configurations share one copy.

    Raises:
        UserError: files are missing, or the sizes asked for are larger than the data set.
    """
    arrays = source.load()
    if not len(arrays.labels):
        raise UserError(f"the data set {source.name!r} is empty")
    scaling = source.scaling(arrays)
    test = arrays.test_labels
    train, held = divide(source.name, config, len(arrays.labels), len(test) if test is not None else None)
    if config.validation == "test":
        assert arrays.test_inputs is not None  # noqa: S101  # divide has looked
        assert test is not None  # noqa: S101
        validation = _part(arrays.test_inputs, test, held, scaling)
    else:
        validation = _part(arrays.inputs, arrays.labels, held, scaling)
    return Split(_part(arrays.inputs, arrays.labels, train, scaling), validation, scaling)


def divide(
    name: str, config: DataConfig, count: int, test_count: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to train on and to validate on; the latter are rows of the test set if that was asked for.

    Raises:
        UserError: there is no test set, or fewer examples than asked for.
    """
    order = _order(config, count)
    if config.validation == "test":
        if test_count is None:
            raise UserError(f"the data set {name!r} has no test set here: use validation holdout")
        held = _order(config, test_count)
        return _first(order, config.train_size, "trainSize"), _first(held, config.validation_size, "validationSize")
    kept = max(1, round(count * config.validation_fraction))
    if kept >= count:
        raise UserError(f"validationFraction {config.validation_fraction} of {count} examples leaves none to train on")
    held = _first(order[:kept], config.validation_size, "validationSize")
    return _first(order[kept:], config.train_size, "trainSize"), held


def _order(config: DataConfig, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(config.split_seed)).permutation(count)


def _first(order: NDArray[np.int64], size: int | None, option: str) -> NDArray[np.int64]:
    if size is not None and size > len(order):
        raise UserError(f"{option} is {size}, but only {len(order)} examples are there: lower it")
    return order if size is None else order[:size]


def _part(inputs: NDArray[Any], labels: NDArray[Any], chosen: NDArray[np.int64], scaling: Scaling) -> Part:
    values = len(chosen) * int(np.prod(inputs.shape[1:]))
    if inputs.dtype != np.uint8 or values <= SCALE_AT_ONCE:
        return Part(scale(torch.from_numpy(inputs[chosen]), scaling), torch.from_numpy(labels[chosen]))
    if isinstance(inputs, np.memmap):  # not copied: it may be larger than the memory
        return Part(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(chosen))
    return Part(torch.from_numpy(inputs[chosen]), torch.from_numpy(labels[chosen]))
