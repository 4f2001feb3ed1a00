"""The images of one evaluator configuration as tensors: loaded once a process. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, Scaling
from archsearch.evaluate.data.catalogue import data_set

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from archsearch.evaluate.classification import ClassificationConfig

# Up to this many values the whole set is scaled once (256 MiB of float32); above, each batch is.
SCALE_AT_ONCE = 2**26


@dataclass(frozen=True)
class Part:
    """Images (N, channels, height, width), scaled float32 or raw uint8, and labels (N,) int64."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Part:
        return Part(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Split:
    train: Part
    validation: Part
    scaling: Scaling

    def prepare(self, inputs: Tensor) -> Tensor:
        """A batch as the network takes it: float32, scaled."""
        return inputs if inputs.dtype == torch.float32 else scale(inputs, self.scaling)


def scale(inputs: Tensor, scaling: Scaling) -> Tensor:
    """``(inputs / divisor - mean) / std`` by channel, as float32."""
    shape = (1, -1, *(1 for _ in inputs.shape[2:]))
    mean = torch.tensor(scaling.mean, dtype=torch.float32, device=inputs.device).view(shape)
    std = torch.tensor(scaling.std, dtype=torch.float32, device=inputs.device).view(shape)
    return inputs.to(torch.float32).div_(scaling.divisor).sub_(mean).div_(std)


@lru_cache(maxsize=2)
def split(config: ClassificationConfig) -> Split:
    """Training and validation images of `config`; equal configurations share one copy.

    Raises:
        UserError: files are missing, or the sizes asked for are larger than the data set.
    """
    source = data_set(config.dataset, config.data_path)
    arrays = source.load()
    scaling = source.scaling(arrays)
    order = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(arrays.labels))
    if config.validation == "test":
        if arrays.test_inputs is None or arrays.test_labels is None:
            raise UserError(f"the data set {config.dataset!r} has no test set here: use validation holdout")
        held = np.random.Generator(np.random.PCG64(config.split_seed)).permutation(len(arrays.test_labels))
        train = _part(arrays.inputs, arrays.labels, _first(order, config.train_size, "trainSize"), scaling)
        validation = _part(
            arrays.test_inputs, arrays.test_labels, _first(held, config.validation_size, "validationSize"), scaling
        )
    else:
        train, validation = _holdout(arrays, order, config, scaling)
    _check_labels(config, train, validation, source.classes)
    return Split(train, validation, scaling)


def _holdout(
    arrays: Arrays, order: NDArray[np.int64], config: ClassificationConfig, scaling: Scaling
) -> tuple[Part, Part]:
    count = max(1, round(len(order) * config.validation_fraction))
    if count >= len(order):
        raise UserError(
            f"validationFraction {config.validation_fraction} of {len(order)} images leaves none to train on"
        )
    held = _first(order[:count], config.validation_size, "validationSize")
    rest = _first(order[count:], config.train_size, "trainSize")
    return _part(arrays.inputs, arrays.labels, rest, scaling), _part(arrays.inputs, arrays.labels, held, scaling)


def _first(order: NDArray[np.int64], size: int | None, option: str) -> NDArray[np.int64]:
    if size is not None and size > len(order):
        raise UserError(f"{option} is {size}, but only {len(order)} images are there: lower it")
    return order if size is None else order[:size]


def _part(inputs: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.int64], scaling: Scaling) -> Part:
    raw = torch.from_numpy(inputs[chosen])
    images = scale(raw, scaling) if raw.numel() <= SCALE_AT_ONCE else raw
    return Part(images, torch.from_numpy(labels[chosen]))


def _check_labels(config: ClassificationConfig, train: Part, validation: Part, classes: int) -> None:
    outputs = config.classes if config.classes is not None else classes
    largest = max(int(train.labels.max()), int(validation.labels.max()))
    if largest >= outputs:
        raise UserError(f"the data set {config.dataset!r} has label {largest}, but classes is {outputs}: raise classes")
