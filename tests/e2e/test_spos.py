"""SPOS from end to end: a supernet trial, then candidates on two workers that load its weights from the bucket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.cluster import Experiment, Installation

import archsearch
from archsearch_strategies.ledger import read_ledger

CANDIDATES = 8


def search() -> dict[str, Any]:
    evolution = {"population": 4, "parents": 2, "crossover": 2, "mutation": 2, "generations": 2, "recalibrate": 4}
    return {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 4, "cells": 1}}},
        "strategy": {
            "name": "spos",
            "config": {"epochs": 6, "batchSize": 32, "learningRate": 0.1, "clipNorm": 5, **evolution},
        },
        "evaluator": {
            "name": "classification",
            "config": {"dataset": "digits", "trainSize": 512, "validationSize": 128, "epochs": 1},
        },
        "retrain": {"topK": 1, "controls": 0},
        "parallelTrials": 2,
        "trials": {"perJob": 2, "template": {"resources": {"requests": {"cpu": "50m", "memory": "300Mi"}}}},
        "seed": 3,
    }


def test_candidates_inherit_over_the_bucket(
    experiment: Callable[[str], Experiment], installation: Installation, tmp_path: Path
) -> None:
    found = experiment("spos").apply(search())
    found.until_condition("Succeeded", seconds=400)
    with installation.bucket(found.prefix()) as store:
        records = list(read_ledger(store))
        summary = json.loads(store.get("summary.json"))
        weights = {each.key for each in store.list("trials/") if each.key.endswith("manifest.json")}
        for each in store.list("best/"):
            target = tmp_path / each.key
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(each.key, target)
    submitted = {each["number"]: each for each in records if each["type"] == "submitted"}
    kinds = [each["kind"] for each in submitted.values()]
    assert kinds == ["supernet", *["inherit"] * CANDIDATES]
    assert {each["params"]["checkpointOf"] for each in submitted.values() if each["kind"] == "inherit"} == {1}
    results = {each["number"]: each for each in records if each["type"] == "result"}
    assert {each["state"] for each in results.values()} == {"succeeded"}
    source = results[1]["artifacts"]["checkpoint"]
    assert f"{source}/manifest.json" in weights
    assert {key.split("/")[1] for key in weights} == {"1", "10"}, "candidates have no weights of their own"
    leased = [each for each in records if each["type"] == "leased"]
    assert len({each["job"] for each in leased if 1 < each["number"] <= 1 + CANDIDATES}) >= 2
    assert [each["kind"] for each in summary["best"]] == ["inherit"] * len(summary["best"])
    assert summary["best"][0]["metrics"]["accuracy"] > 0.2, "a network that inherits nothing guesses: 0.1"
    assert summary["modelTrial"] == 10
    model = archsearch.load(tmp_path / "best")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
