"""Options that all training evaluators share, and their base class. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from archsearch.evaluate.base import PROFILE_METRICS, Evaluator, EvaluatorConfig
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import nn

    from archsearch.evaluate.tasks import Task
    from archsearch.trial.context import TrialContext

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=1, le=100_000_000)]
Name = Annotated[str, StringConstraints(max_length=63)]
PathText = Annotated[str, StringConstraints(max_length=1024)]


class OptimizerName(StrEnum):
    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"
    RMSPROP = "rmsprop"


class Schedule(StrEnum):
    COSINE = "cosine"
    LINEAR = "linear"
    STEP = "step"
    CONSTANT = "constant"


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Validation(StrEnum):
    """Holdout: a part of the training set, the same for every trial. Test: the data set's own test set."""

    HOLDOUT = "holdout"
    TEST = "test"


class DataConfig(EvaluatorConfig):
    """Which examples are trained on and which are held out."""

    data_path: PathText = Field(
        default="",
        description="File or folder of the data, relative to the manifest's code; empty: where a package keeps them.",
    )
    validation: Validation = Field(
        default=Validation.HOLDOUT, description="holdout: part of the training set. test: the data set's own test set."
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.2, description="Part of the training set that holdout keeps for validation."
    )
    split_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        default=0, description="Chooses the held-out examples and the subsets; the same for all trials."
    )
    train_size: Size | None = Field(default=None, description="Use only this many training examples.")
    validation_size: Size | None = Field(default=None, description="Use only this many validation examples.")


class TrainingConfig(DataConfig):
    """How a network is trained, whatever it is trained for."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10, description="Passes over the training examples."
    )
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=64, description="Examples of one step.")
    optimizer: OptimizerName = Field(
        default=OptimizerName.SGD, description="sgd (Nesterov where momentum is above 0), adam, adamw or rmsprop."
    )
    learning_rate: Rate = Field(default=0.05, description="Highest learning rate.")
    momentum: Fraction = Field(default=0.9, description="Momentum of sgd and rmsprop; the first beta of adam, adamw.")
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=5e-4, description="Weight decay; decoupled for adamw, else a part of the gradient."
    )
    schedule: Schedule = Field(
        default=Schedule.COSINE,
        description="cosine or linear (to minimumLearningRate, step by step), step (times stepFactor every stepEpochs) "
        "or constant.",
    )
    minimum_learning_rate: NotNegative = Field(default=0.0, description="Where cosine and linear end.")
    warmup_epochs: NotNegative = Field(
        default=0.0, description="Epochs, parts too, in which the rate first grows linearly."
    )
    step_epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=30, description="Epochs between the falls of schedule step."
    )
    step_factor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.1, description="What the rate is multiplied with at each fall of schedule step."
    )
    clip_norm: NotNegative = Field(default=0.0, description="Largest norm of all gradients together; 0: not limited.")
    precision: Precision = Field(
        default=Precision.FLOAT32,
        description="float32, or mixed precision in bfloat16 or (with a scaled loss, on GPUs only) float16.",
    )
    drop_path: Fraction | None = Field(
        default=None,
        description="Probability to which drop-path grows, epoch by epoch; absent: what the network was built with.",
    )
    auxiliary: bool = Field(default=False, description="Build the network with its auxiliary head and train that too.")
    auxiliary_weight: NotNegative = Field(
        default=0.4, description="Weight of the auxiliary head's loss in networks that have one."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmupEpochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs}): nothing would follow it"
            )
        if self.minimum_learning_rate > self.learning_rate:
            raise ValueError(
                f"minimumLearningRate ({self.minimum_learning_rate:g}) is above learningRate ({self.learning_rate:g})"
            )
        return self


class TrainingEvaluator(Evaluator):
    """Base of the evaluators that train with the trainer in `archsearch.evaluate.training`.

    Deterministic under the trial's seed for a given number of threads and device. The checkpoint holds model,
    optimizer, random states and the position in the data, so that a resumed trial ends with the same bits.
    """

    Config: ClassVar[type[EvaluatorConfig]] = TrainingConfig

    @classmethod
    @abstractmethod
    def reported(cls, config: Any) -> tuple[str, ...]:
        """Names of the metrics that every epoch reports."""

    @classmethod
    def metrics(cls, config: Any) -> tuple[str, ...]:
        return (*cls.reported(config), *PROFILE_METRICS)

    @classmethod
    def wishes(cls, config: Any) -> JsonObject:
        drop_path = {"drop_path": config.drop_path} if config.drop_path else {}
        return {**drop_path, **({"auxiliary": True} if config.auxiliary else {})}

    @classmethod
    def fidelities(cls, config: Any) -> Sequence[int]:
        return range(1, config.epochs + 1)

    @abstractmethod
    def task(self) -> Task:
        """The data with their loss and their measures. Imports torch.

        Raises:
            UserError: the data are missing, damaged or smaller than what is asked of them.
        """

    def initialise(self, model: nn.Module) -> None:
        """Give a new network what it does not start from scratch, such as word vectors."""

    def evaluate(self, model: nn.Module, context: TrialContext) -> dict[str, float]:
        from archsearch.evaluate.training import Trainer

        self.initialise(model)
        return Trainer(model, self.config, self.task(), context).run()
