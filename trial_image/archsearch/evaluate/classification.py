"""Image classification: train on a data set in memory, measure on held-out images. Imports no torch at its top."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from archsearch.evaluate.base import Evaluator, EvaluatorConfig
from archsearch.evaluate.data import DataSet, Scaling, data_set, names

if TYPE_CHECKING:
    from torch import nn

    from archsearch.trial.context import TrialContext

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=100_000_000)]


class OptimizerName(StrEnum):
    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class Schedule(StrEnum):
    COSINE = "cosine"
    CONSTANT = "constant"


class Validation(StrEnum):
    """Holdout: a part of the training set, the same for every trial. Test: the data set's own test set."""

    HOLDOUT = "holdout"
    TEST = "test"


class ClassificationConfig(EvaluatorConfig):
    """Options of the evaluator `classification`."""

    dataset: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="digits", description="digits, fashion-mnist, mnist, idx (any IDX folder), cifar10 or cifar100."
    )
    data_path: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="Folder of the files; empty: where a package keeps them."
    )
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = Field(
        default=None, description="Outputs of the network; absent: the data set's number of classes."
    )
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(default=10, description="Passes over the training images.")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=64, description="Images of one step.")
    optimizer: OptimizerName = Field(default=OptimizerName.SGD, description="sgd (Nesterov), adam or adamw.")
    learning_rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = Field(
        default=0.05, description="Learning rate of the first step."
    )
    momentum: Fraction = Field(
        default=0.9, description="Momentum of sgd (Nesterov where above 0); the first beta of adam."
    )
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=5e-4, description="Weight decay."
    )
    schedule: Schedule = Field(default=Schedule.COSINE, description="cosine (to 0, step by step) or constant.")
    validation: Validation = Field(
        default=Validation.HOLDOUT, description="holdout: part of the training set. test: the data set's own test set."
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.2, description="Part of the training set that holdout keeps for validation."
    )
    split_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=0, description="Chooses the held-out images and the subsets; the same for all trials of an experiment."
    )
    train_size: Size | None = Field(default=None, description="Use only this many training images.")
    validation_size: Size | None = Field(default=None, description="Use only this many validation images.")

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in names():
            raise ValueError(f"no data set is named {value!r}; known here: {', '.join(names())}")
        return value

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.validation is Validation.TEST and self.dataset == "digits":
            raise ValueError("digits has no test set of its own: use validation holdout")
        if self.dataset in {"idx", "mnist", "cifar10", "cifar100"} and not self.data_path:
            raise ValueError(f"dataset {self.dataset} needs dataPath, the folder of its files: nothing is downloaded")
        return self


class Classification(Evaluator):
    """Cross-entropy training; reports `accuracy` and `loss` on the validation images and `trainLoss`, once an epoch.

    Deterministic under the trial's seed for a given number of threads and device. The checkpoint holds model,
    optimizer, random states and the position in the data, so that a resumed trial ends with the same bits.
    """

    Config: ClassVar[type[EvaluatorConfig]] = ClassificationConfig
    config: ClassificationConfig

    @classmethod
    def metrics(cls, config: Any) -> tuple[str, ...]:
        return ("accuracy", "loss", "trainLoss")

    @classmethod
    def input_shape(cls, config: Any) -> tuple[int, ...]:
        return _data(config).shape

    @classmethod
    def classes(cls, config: Any) -> int:
        return config.classes if config.classes is not None else _data(config).classes

    def scaling(self) -> Scaling:
        from archsearch.evaluate.data.splits import split

        return split(self.config).scaling

    def evaluate(self, model: nn.Module, context: TrialContext) -> dict[str, float]:
        from archsearch.evaluate.training import train_classifier

        return train_classifier(model, self.config, context)


def _data(config: ClassificationConfig) -> DataSet:
    return data_set(config.dataset, config.data_path)
