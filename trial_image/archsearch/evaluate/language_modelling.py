"""Language modelling: the next word or character of a text. Imports no torch at its top."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from archsearch.errors import UserError
from archsearch.evaluate.base import EvaluatorConfig
from archsearch.evaluate.data.texts import load_texts
from archsearch.evaluate.data.tokens import Vocabulary
from archsearch.evaluate.text_classification import TextConfig, TextEvaluator
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from archsearch.evaluate.data.splits import Part
    from archsearch.evaluate.tasks import Task


class Tokens(StrEnum):
    CHARACTERS = "characters"
    WORDS = "words"


class LanguageConfig(TextConfig):
    """Options of the evaluator `language-modelling`."""

    tokens: Tokens = Field(default=Tokens.CHARACTERS, description="characters, or words and punctuation marks.")


class LanguageModelling(TextEvaluator):
    """Cross-entropy of the next token; reports `perplexity`, `loss` (a token, in nats) and `trainLoss`.

    All texts follow each other, a line break between two, and are cut into pieces of `length` tokens. Networks take
    (N, length) token numbers, int64, and give (N, length, vocabulary); that they look at no later token is theirs to
    see to. `trainSize` and `validationSize` count pieces; held out is the end of the text, not a random part.
    """

    Config: ClassVar[type[EvaluatorConfig]] = LanguageConfig
    config: LanguageConfig

    @classmethod
    def reported(cls, config: Any) -> tuple[str, ...]:
        return ("perplexity", "loss", "trainLoss")

    @classmethod
    def classes(cls, config: Any) -> int:
        return len(cls.vocabulary(config))

    @classmethod
    def vocabulary(cls, config: Any) -> Vocabulary:
        return _prepared(config)[0]

    def output(self) -> JsonObject | None:
        return {"next": "token numbers of input.tokens"}

    def task(self) -> Task:
        from archsearch.evaluate.data.splits import Split
        from archsearch.evaluate.tasks import TokensTask

        vocabulary, train, held = _prepared(self.config)
        split = Split(
            self._part(train, self.config.train_size, "trainSize"),
            self._part(held, self.config.validation_size, "validationSize"),
            None,
        )
        return TokensTask(split, len(vocabulary), label_smoothing=self.config.label_smoothing)

    def _part(self, stream: NDArray[np.int64], size: int | None, option: str) -> Part:
        import torch

        from archsearch.evaluate.data.splits import Part

        length = self.config.length
        count = (len(stream) - 1) // length
        if count < 1 or (size is not None and size > count):
            wanted = f"{option} is {size}" if size is not None else f"length is {length}"
            raise UserError(f"{wanted}, but the text gives only {count} pieces of {length} tokens: lower it")
        count = size or count
        pieces = torch.from_numpy(stream[: count * length + 1])
        return Part(pieces[:-1].view(count, length), pieces[1:].view(count, length))


@lru_cache(maxsize=2)
def _prepared(config: LanguageConfig) -> tuple[Vocabulary, NDArray[np.int64], NDArray[np.int64]]:
    """The vocabulary of the training text, and both texts as token numbers."""
    import numpy as np

    found = load_texts(config.dataset, config.data_path)
    if config.validation == "test":
        if not found.test_texts:
            raise UserError(f"the data set {config.dataset!r} has no test set here: use validation holdout")
        train, held = found.texts, found.test_texts
    else:
        count = max(1, round(len(found.texts) * config.validation_fraction))
        if count >= len(found.texts):
            raise UserError(f"validationFraction {config.validation_fraction} leaves no text to train on")
        train, held = found.texts[:-count], found.texts[-count:]
    vocabulary = Vocabulary.of(
        [*train, "\n"], config.vocabulary_size, characters=config.tokens == "characters", lower=config.lower_case
    )
    parts = [np.array(vocabulary.encode("\n".join(texts)), dtype=np.int64) for texts in (train, held)]
    return vocabulary, parts[0], parts[1]
