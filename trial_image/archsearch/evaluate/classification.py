"""Classification of images and of rows of a table, from data in memory. Imports no torch at its top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from archsearch.errors import UserError
from archsearch.evaluate.base import EvaluatorConfig
from archsearch.evaluate.data import DataSet, Scaling, data_set, kind_of, names
from archsearch.evaluate.options import Fraction, Name, TrainingConfig, TrainingEvaluator
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from archsearch.evaluate.data.splits import Split
    from archsearch.evaluate.tasks import Task

Pixels = Annotated[int, Field(ge=0, le=4096)]


class ClassificationConfig(TrainingConfig):
    """Options of the evaluator `classification`."""

    dataset: Name = Field(
        default="digits",
        description="digits, fashion-mnist, mnist, mnist-5k, idx (any IDX folder), cifar10, cifar100, image-folder, "
        "breast-cancer, wine or table (a CSV or npz file).",
    )
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = Field(
        default=None, description="Outputs of the network; absent: the data set's number of classes."
    )
    target_column: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Column of a CSV table that holds the class; empty: the last."
    )
    image_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=224, description="Side in pixels to which image-folder scales and cuts."
    )
    label_smoothing: Fraction = Field(default=0.0, description="Part of each target shared out among all classes.")
    random_crop: Pixels = Field(
        default=0, description="Pad training images by so many pixels and cut out at a random place; 0: not."
    )
    horizontal_flip: bool = Field(default=False, description="Mirror training images by chance.")
    cutout: Pixels = Field(
        default=0, description="Side in pixels of a square that is blanked in each training image; 0: none."
    )

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in names():
            raise ValueError(f"no data set is named {value!r}; known here: {', '.join(names())}")
        return value

    @model_validator(mode="after")
    def _placed(self) -> Self:
        check_source(self, kind_of(self.dataset))
        return self


def check_source(config: Any, kind: type[DataSet]) -> None:
    """Raise ValueError where a configuration asks a data set for what it has not."""
    if config.validation == "test" and not kind.has_test:
        raise ValueError(f"{kind.name} has no test set of its own: use validation holdout")
    if kind.needs_path and not config.data_path:
        raise ValueError(f"dataset {kind.name} needs dataPath, where its files are: nothing is downloaded")
    if config.target_column and kind.name != "table":
        raise ValueError(f"targetColumn is for dataset table, not for {kind.name}")


class Classification(TrainingEvaluator):
    """Cross-entropy training; reports `accuracy`, `loss` (validation), `trainLoss`, and `top5` above 5 classes."""

    Config: ClassVar[type[EvaluatorConfig]] = ClassificationConfig
    config: ClassificationConfig

    @classmethod
    def reported(cls, config: Any) -> tuple[str, ...]:
        # Asked where no data are: a number of classes that only files tell is taken to be above 5.
        declared = config.classes if config.classes is not None else vars(kind_of(config.dataset)).get("classes")
        top5 = ("top5",) if not isinstance(declared, int) or declared > 5 else ()
        return ("accuracy", *top5, "loss", "trainLoss")

    @classmethod
    def input_shape(cls, config: Any) -> tuple[int, ...]:
        return _data(config).shape

    @classmethod
    def classes(cls, config: Any) -> int:
        return config.classes if config.classes is not None else _data(config).classes

    @classmethod
    def data_digests(cls, config: Any) -> dict[str, str]:
        return {config.dataset: _data(config).digest()}

    def scaling(self) -> Scaling | None:
        return self.split().scaling

    def output(self) -> JsonObject | None:
        names = _data(self.config).class_names
        return {"classes": names} if names is not None else None

    def split(self) -> Split:
        """Training and validation examples, loaded once a process. Imports torch.

        Raises:
            UserError: as `task`.
        """
        from archsearch.evaluate.data.splits import split

        found, classes = split(_data(self.config), self.config), self.classes(self.config)
        largest = max(int(part.labels.max()) for part in (found.train, found.validation))
        if largest >= classes:
            raise UserError(
                f"the data set {self.config.dataset!r} has label {largest}, but classes is {classes}: raise classes"
            )
        return found

    def task(self) -> Task:
        from archsearch.evaluate.tasks import Augmentation, ClassTask

        config, shape = self.config, _data(self.config).shape
        augmentation = Augmentation(config.random_crop, config.horizontal_flip, config.cutout)
        if augmentation and len(shape) != 3:
            raise UserError(
                f"randomCrop, horizontalFlip and cutout change images; inputs of {config.dataset!r} have the shape "
                f"{shape}: leave them out"
            )
        return ClassTask(
            self.split(),
            self.classes(config),
            label_smoothing=config.label_smoothing,
            augmentation=augmentation,
            axes="batch, channels, height, width" if len(shape) == 3 else "batch, features",
        )


def _data(config: ClassificationConfig) -> DataSet:
    options: dict[str, str | int] = {}
    if config.dataset == "table":
        options["target"] = config.target_column
    if config.dataset == "image-folder":
        options["size"] = config.image_size
    return data_set(config.dataset, config.data_path, **options)
