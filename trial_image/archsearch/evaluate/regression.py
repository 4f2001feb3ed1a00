"""Prediction of numbers from the rows of a table. Imports no torch at its top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from archsearch.evaluate.base import EvaluatorConfig
from archsearch.evaluate.classification import check_source
from archsearch.evaluate.data import DataSet, Scaling, data_set, kind_of, names
from archsearch.evaluate.options import Name, OptimizerName, Rate, TrainingConfig, TrainingEvaluator
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from archsearch.evaluate.tasks import Task


class RegressionConfig(TrainingConfig):
    """Options of the evaluator `regression`."""

    dataset: Name = Field(default="diabetes", description="diabetes or table (a CSV or npz file).")
    target_column: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Column of a CSV table to predict; empty: the last."
    )
    optimizer: OptimizerName = Field(default=OptimizerName.ADAMW, description="sgd, adam, adamw or rmsprop.")
    learning_rate: Rate = Field(default=0.005, description="Highest learning rate.")

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        known = names(regression=True)
        if value not in known:
            raise ValueError(f"no data set with numbers to predict is named {value!r}; known here: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _placed(self) -> Self:
        check_source(self, kind_of(self.dataset, regression=True))
        return self


class Regression(TrainingEvaluator):
    """Least squares; reports `mse`, `mae`, `r2` in the targets' own units, `loss` and `trainLoss` of standardised ones.

    The network learns ``(target - mean) / std``; both constants are kept with an exported model.
    """

    Config: ClassVar[type[EvaluatorConfig]] = RegressionConfig
    config: RegressionConfig

    @classmethod
    def reported(cls, config: Any) -> tuple[str, ...]:
        return ("mse", "mae", "r2", "loss", "trainLoss")

    @classmethod
    def input_shape(cls, config: Any) -> tuple[int, ...]:
        return _data(config).shape

    @classmethod
    def classes(cls, config: Any) -> int:
        return _data(config).classes

    @classmethod
    def data_digests(cls, config: Any) -> dict[str, str]:
        return {config.dataset: _data(config).digest()}

    def scaling(self) -> Scaling | None:
        from archsearch.evaluate.data.splits import split

        return split(_data(self.config), self.config).scaling

    def output(self) -> JsonObject:
        scaling = self._targets()
        return {"mean": list(scaling.mean), "std": list(scaling.std)}

    def task(self) -> Task:
        from dataclasses import replace

        import torch

        from archsearch.evaluate.data.splits import Part, split
        from archsearch.evaluate.tasks import NumbersTask

        targets = self._targets()
        mean, std = (torch.tensor(each, dtype=torch.float32) for each in (targets.mean, targets.std))

        def standardised(part: Part) -> Part:
            return replace(part, labels=(part.labels.reshape(len(part.labels), -1) - mean) / std)

        found = split(_data(self.config), self.config)
        return NumbersTask(
            replace(found, train=standardised(found.train), validation=standardised(found.validation)), targets
        )

    def _targets(self) -> Scaling:
        from archsearch.evaluate.data.base import column_scaling
        from archsearch.evaluate.data.splits import split

        labels = split(_data(self.config), self.config).train.labels.numpy()
        return column_scaling(labels.reshape(len(labels), -1))


def _data(config: RegressionConfig) -> DataSet:
    options = {"target": config.target_column} if config.dataset == "table" else {}
    return data_set(config.dataset, config.data_path, regression=True, **options)
