"""Digests of code and data."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archsearch.evaluate.classification import Classification
from archsearch.evaluate.data.base import arrays_digest
from archsearch.evaluate.data.folder import ImageFolder
from archsearch.evaluate.kinds import run_kind
from archsearch.evaluate.language_modelling import LanguageModelling
from archsearch.evaluate.regression import Regression
from archsearch.evaluate.tabular import Tabular
from archsearch.evaluate.text_classification import TextClassification
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace

ZOO = {"zoo": {"name": "nasbench201", "args": {"channels": 2, "cells": 1}}}
NET = """
import helper_of_net
from torch import nn
from archsearch.nn import LayerChoice
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = LayerChoice({"a": nn.Identity(), "b": nn.ReLU()})
    def forward(self, x):
        return self.op(x)
def fit(model):
    return {"accuracy": 1.0}
"""


def digests(evaluator: Any, **config: Any) -> dict[str, str]:
    found: dict[str, str] = evaluator.data_digests(evaluator.configure(config).config)
    return found


def test_described_spaces_tell_them(make_context: Callable[..., Any]) -> None:
    fields = {"model_space": ModelSpace.model_validate(ZOO), "evaluator": EvaluatorSpec(name="classification")}
    first, second = (run_kind(make_context(kind="describe", **fields)).payload["origin"] for _ in range(2))
    assert first == second
    assert set(first["data"]) == {"digits"}
    assert all(len(each) == 64 for each in (first["code"], *first["data"].values()))


def test_a_users_code_counts_with_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_context: Callable[..., Any]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    space = {"python": {"class": "net_of_user:Net", "inputShape": [4]}}
    evaluator = EvaluatorSpec(python="net_of_user:fit")

    def code(net: str, helper: str) -> str:
        (tmp_path / "net_of_user.py").write_text(net)
        (tmp_path / "helper_of_net.py").write_text(helper)
        for name in ("net_of_user", "helper_of_net"):
            sys.modules.pop(name, None)
        fields = {"model_space": ModelSpace.model_validate(space), "evaluator": evaluator}
        origin = run_kind(make_context(kind="describe", **fields)).payload["origin"]
        assert origin["data"] is None  # what the function reads is not known
        return str(origin["code"])

    first = code(NET, "")
    assert code(NET, "") == first
    assert len({first, code(NET + "\n# more", ""), code(NET, "changed = 1")}) == 3


def test_data_sets_by_content(tmp_path: Path) -> None:
    def table(rows: str) -> dict[str, str]:
        (tmp_path / "data.csv").write_text(f"a,b,label\n{rows}")
        from archsearch.evaluate.data.catalogue import data_set

        data_set.cache_clear()
        return digests(Classification, dataset="table", dataPath=str(tmp_path / "data.csv"))

    first = table("1,2,x\n3,4,y\n")
    assert table("1,2,x\n3,4,y\n") == first
    assert table("1,2,x\n3,5,y\n") != first
    assert digests(Regression, dataset="diabetes") == digests(Regression, dataset="diabetes")


def test_texts_and_word_vectors(tmp_path: Path) -> None:
    text, vectors = tmp_path / "text.tsv", tmp_path / "vectors.txt"
    text.write_text("good\tfine day\nbad\tgrey day\n")
    vectors.write_text("day 0.1 0.2\n")
    config = {"dataset": "text-file", "dataPath": str(text)}
    plain = digests(TextClassification, **config)
    assert set(plain) == {"text-file"}
    with_vectors = digests(TextClassification, **config, wordVectors=str(vectors))
    assert with_vectors["text-file"] == plain["text-file"]
    vectors.write_text("day 0.1 0.3\n")
    assert digests(TextClassification, **config, wordVectors=str(vectors))["wordVectors"] != with_vectors["wordVectors"]
    assert digests(LanguageModelling, **config) == plain


def test_tables_of_measurements(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(b"one")
    first = digests(Tabular, table=str(path), metric="accuracy")
    path.write_bytes(b"two")
    assert digests(Tabular, table=str(path), metric="accuracy") != first


def test_images_by_name_and_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    first = ImageFolder(tmp_path).digest()
    assert ImageFolder(tmp_path).digest() == first
    (tmp_path / "b" / "1.png").write_bytes(b"xx")
    assert ImageFolder(tmp_path).digest() != first


def test_arrays_by_type_shape_and_values() -> None:
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.array([0.0, 0.0, 0.0, 1.0])]
    found = [arrays_digest(each) for each in arrays]
    assert len(set(found)) == 4
    assert arrays_digest(arrays[1].T[:, ::-1]) == arrays_digest(np.zeros((2, 2)))  # however it lies in memory
    assert arrays_digest(arrays[0], None) != arrays_digest(arrays[0])
