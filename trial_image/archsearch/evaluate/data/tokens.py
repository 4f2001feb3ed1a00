"""From texts to numbers: vocabularies, and vectors of words from files. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.errors import UserError
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")
_WORDS = r"\w+(?:['’]\w+)*|[^\w\s]"
_SPLIT = re.compile(_WORDS)


@dataclass(frozen=True)
class Vocabulary:
    """Numbers of tokens: 0 is padding, 1 every unknown token, the others by falling frequency.

    Attributes:
        tokens: all of them, in order of their numbers.
        characters: tokens are single characters; else words and punctuation marks.
        lower: texts are put into lower case first.
    """

    tokens: tuple[str, ...]
    characters: bool = False
    lower: bool = True

    @classmethod
    def of(cls, texts: Iterable[str], size: int, *, characters: bool = False, lower: bool = True) -> Vocabulary:
        """The `size` - 2 most frequent tokens of `texts`."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_tokens(text, characters, lower))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls((*_SPECIAL, *(token for token, _ in ordered[: size - len(_SPECIAL)])), characters, lower)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Numbers of a text's tokens."""
        numbers = self.numbers
        return [numbers.get(token, UNKNOWN) for token in _tokens(text, self.characters, self.lower)]

    def encode_all(self, texts: Sequence[str], length: int) -> NDArray[Any]:
        """(N, length) int64: each text cut to `length` tokens, or filled up with padding."""
        import numpy as np

        found = np.full((len(texts), length), PADDING, dtype=np.int64)
        for row, text in enumerate(texts):
            numbers = self.encode(text)[:length]
            found[row, : len(numbers)] = numbers
        return found

    def to_json(self) -> JsonObject:
        """What is needed to do the same elsewhere."""
        pattern = "." if self.characters else _WORDS
        return {"vocabulary": list(self.tokens), "pattern": pattern, "lower": self.lower}


def _tokens(text: str, characters: bool, lower: bool) -> Sequence[str]:
    text = text.lower() if lower else text
    return text if characters else _SPLIT.findall(text)


def vectors_dimension(path: Path) -> int:
    """Length of the vectors in a file (see `read_vectors`)."""
    for _, values in _vectors(path):
        return len(values)
    raise UserError(f"{path} holds no word vectors")


def read_vectors(path: Path, vocabulary: Vocabulary) -> dict[int, NDArray[Any]]:
    """Vectors (float32) of the vocabulary's words by number, from a text file as GloVe and word2vec write it.

    Each line holds a word and its numbers, separated by blanks; word2vec's first line (count, dimension) is skipped.

    Raises:
        UserError: the file is missing or a line has another number of values than the first.
    """
    import numpy as np

    found: dict[int, NDArray[Any]] = {}
    dimension = 0
    for number, (word, values) in enumerate(_vectors(path), 1):
        dimension = dimension or len(values)
        if len(values) != dimension:
            raise UserError(f"{path}: vector {number} ({word!r}) has {len(values)} numbers, the first has {dimension}")
        place = vocabulary.numbers.get(word)
        if place is None or place in found:
            continue
        try:
            found[place] = np.array(values, dtype=np.float32)
        except ValueError as error:
            raise UserError(f"{path}: vector {number} ({word!r}) holds what is no number: {error}") from error
    return found


def _vectors(path: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream):
                word, *values = line.rstrip().split(" ")
                if values and not (number == 0 and len(values) == 1):
                    yield word, values
    except OSError as error:
        raise UserError(
            f"the word vectors {path} cannot be read: {error.strerror}; give the file as wordVectors"
        ) from error
