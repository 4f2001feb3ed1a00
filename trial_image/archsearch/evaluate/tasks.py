"""What a network is trained for: data, loss and measures of one evaluator, for the trainer. Imports torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from archsearch.evaluate import augmentation
from archsearch.evaluate.data.base import Scaling
from archsearch.evaluate.data.splits import Part, Split, scale

# Outputs of one validation batch, at most about so many values (64 MiB of float32).
VALIDATION_VALUES = 2**24


@dataclass(frozen=True)
class Expected:
    """The form that a network's output must have: in words, and as a test."""

    words: str
    fits: Callable[[Tensor], bool]


class Task(ABC):
    """Data with their loss and their measures.

    Attributes:
        axes: What the axes of a batch are, for messages.
        validation_batch: Examples of one validation step.
    """

    axes = "batch, …"
    validation_batch = 1024

    def __init__(self, split: Split) -> None:
        self._split = split

    @property
    def train(self) -> Part:
        return self._split.train

    @property
    def validation(self) -> Part:
        return self._split.validation

    def prepare(self, inputs: Tensor) -> Tensor:
        """A batch as the network takes it."""
        return self._split.prepare(inputs)

    def augment(
        self, inputs: Tensor, targets: Tensor, generator: Callable[[], torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """A prepared training batch, changed by chance; `generator` is made only if something is drawn."""
        return inputs, targets

    @abstractmethod
    def expected(self, targets: Tensor) -> Expected:
        """The output for a batch with these targets."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss of a batch."""

    @abstractmethod
    def sums(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What `metrics` needs of a validation batch, as float64 numbers or vectors that add up over batches."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of all validation examples."""


@dataclass(frozen=True)
class Augmentation:
    """Crop: padding in pixels; cutout: side of the square in pixels; 0 or False: not done."""

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip or self.cutout)


class ClassTask(Task):
    """One class for each input: cross-entropy; `accuracy`, `loss`, and `top5` where there are more than 5 classes."""

    def __init__(
        self,
        split: Split,
        classes: int,
        *,
        label_smoothing: float = 0.0,
        augmentation: Augmentation | None = None,
        axes: str = "batch, channels, height, width",
    ) -> None:
        super().__init__(split)
        self.classes, self.label_smoothing, self.axes = classes, label_smoothing, axes
        self.augmentation = augmentation or Augmentation()
        self.fill: Tensor | None = None
        if self.augmentation.crop and split.scaling is not None:
            channels = len(split.scaling.mean)
            self.fill = scale(torch.zeros(1, channels, 1, 1), split.scaling).view(-1)

    def augment(
        self, inputs: Tensor, targets: Tensor, generator: Callable[[], torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        if not self.augmentation:
            return inputs, targets
        drawn = generator()
        if self.fill is not None:
            inputs = augmentation.random_crop(inputs, self.augmentation.crop, drawn, self.fill.to(inputs.device))
        if self.augmentation.flip:
            inputs = augmentation.random_flip(inputs, drawn)
        if self.augmentation.cutout:
            inputs = augmentation.cutout(inputs, self.augmentation.cutout, drawn)
        return inputs, targets

    def expected(self, targets: Tensor) -> Expected:
        count = len(targets)
        return Expected(
            f"({count}, classes) with at least {self.classes} classes",
            lambda output: output.ndim == 2 and output.shape[0] == count and output.shape[1] >= self.classes,
        )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output, targets, label_smoothing=self.label_smoothing)

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        found = {
            "count": torch.tensor(len(targets), dtype=torch.float64),
            "correct": (output.argmax(dim=1) == targets).sum(dtype=torch.float64),
            "loss": functional.cross_entropy(output, targets, reduction="sum").double(),
        }
        if self.classes > 5:
            found["top5"] = (output.topk(5, dim=1).indices == targets[:, None]).sum(dtype=torch.float64)
        return found

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        count = sums["count"]
        found = {"accuracy": sums["correct"] / count, "loss": sums["loss"] / count}
        if "top5" in sums:
            found["top5"] = sums["top5"] / count
        return found


class NumbersTask(Task):
    """Numbers to predict: squared error of standardised targets; `mse`, `mae`, `r2` in the targets' own units."""

    axes = "batch, features"

    def __init__(self, split: Split, targets: Scaling) -> None:
        super().__init__(split)
        self.columns = len(targets.mean)
        self.mean, self.std = (torch.tensor(each, dtype=torch.float64) for each in (targets.mean, targets.std))

    def expected(self, targets: Tensor) -> Expected:
        shape = (len(targets), self.columns)
        alternative = f" or ({shape[0]},)" if self.columns == 1 else ""
        return Expected(
            f"{shape}{alternative}",
            lambda output: output.shape == shape or (self.columns == 1 and output.shape == shape[:1]),
        )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(output.reshape(len(targets), -1), targets)

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        std, mean = self.std.to(output.device), self.mean.to(output.device)
        found = output.reshape(len(targets), -1).double() * std + mean
        wanted = targets.double() * std + mean
        error = found - wanted
        # Far from 0 the sum of squares would lose the small differences: taken about the training mean.
        about = wanted - mean
        return {
            "count": torch.tensor(len(targets), dtype=torch.float64),
            "squares": error.square().sum(0),
            "absolute": error.abs().sum(0),
            "about": about.sum(0),
            "aboutSquares": about.square().sum(0),
            "loss": functional.mse_loss(output.reshape(len(targets), -1), targets, reduction="sum").double(),
        }

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        count, columns = sums["count"], self.columns
        shares = []
        for squares, about, about_squares in zip(sums["squares"], sums["about"], sums["aboutSquares"], strict=True):
            variation = about_squares - about**2 / count
            # As usual: a constant target is predicted perfectly or not at all.
            shares.append(1 - squares / variation if variation > 0 else float(squares == 0))
        return {
            "mse": sum(sums["squares"]) / (count * columns),
            "mae": sum(sums["absolute"]) / (count * columns),
            "r2": sum(shares) / columns,
            "loss": sums["loss"] / (count * columns),
        }


class TokensTask(Task):
    """The next token at each place: cross-entropy; `loss` by token and `perplexity`, its exponential."""

    axes = "batch, length"

    def __init__(self, split: Split, vocabulary: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__(split)
        self.vocabulary, self.label_smoothing = vocabulary, label_smoothing
        self.validation_batch = max(1, VALIDATION_VALUES // (vocabulary * split.train.labels.shape[1]))

    def expected(self, targets: Tensor) -> Expected:
        shape = (*targets.shape, self.vocabulary)
        return Expected(
            f"{shape} (batch, length, tokens)",
            lambda output: (
                output.ndim == 3 and output.shape[:2] == targets.shape and output.shape[2] >= self.vocabulary
            ),
        )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), targets.flatten(), label_smoothing=self.label_smoothing)

    def sums(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {
            "count": torch.tensor(targets.numel(), dtype=torch.float64),
            "loss": functional.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="sum").double(),
        }

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        loss = sums["loss"] / sums["count"]
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf, "loss": loss}
