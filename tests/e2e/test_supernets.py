"""Supernet trials in real pods: one whose pod goes away in the middle, and P-DARTS's three stages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from support.cluster import Experiment, Installation, kubectl, unhurried, until

from archsearch.spec import names
from archsearch_strategies.ledger import read_ledger

Maker = Callable[[str], Experiment]


def search(strategy: str, space: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    return {
        "objectives": [{"metric": "accuracy"}],
        "modelSpace": space,
        "strategy": {"name": strategy, "config": {"batchSize": 32, "checkpointSeconds": 1, **config}},
        "evaluator": {
            "name": "classification",
            "config": {"dataset": "digits", "trainSize": 256, "validationSize": 128, "epochs": 1},
        },
        "retrain": {"topK": 0},
        "trials": {"threads": 1, "template": {"resources": {"requests": {"cpu": "50m", "memory": "300Mi"}}}},
        "seed": 3,
    }


def records_of(found: Experiment, installation: Installation) -> tuple[list[dict[str, Any]], dict[str, Any], set[str]]:
    """The ledger, the summary, and the weights that are stored at the end."""
    with installation.bucket(found.prefix()) as store:
        weights = {each.key.split("/")[1] for each in store.list("trials/") if "/weights/" in each.key}
        return list(read_ledger(store)), json.loads(store.get("summary.json")), weights


def test_a_supernet_goes_on_when_its_pod_is_deleted(experiment: Maker, installation: Installation) -> None:
    epochs = 60  # of 8 steps, each at least 40 ms: longer than the ten seconds in which a status may leave steps out
    space = unhurried(0.02, channels=2, cells=1, input_channels=1)
    found = experiment("darts").apply(search("darts", space, {"epochs": epochs}))
    pod = until(
        "the supernet trains", lambda: found.live_pod(names.COMPONENT_TRIAL), seconds=180, explain=found.explain
    )
    with installation.bucket(found.prefix()) as store:
        until(
            "a checkpoint is stored",
            lambda: any(each.key.endswith("manifest.json") for each in store.list("trials/1/checkpoints")),
            explain=found.explain,
        )
    until(
        "the status says how far the supernet is",
        lambda: [(each["number"], each["kind"]) for each in found.search().get("running", [])] == [(1, "supernet")],
        explain=found.explain,
    )
    kubectl("-n", found.namespace, "delete", "pod", pod, "--wait=false")
    found.until_condition("Succeeded", seconds=400)
    records, summary, weights = records_of(found, installation)
    own = [record for record in records if record.get("number") == 1]
    (result,) = (record for record in own if record["type"] == "result")
    assert (result["state"], result["attempt"]) == ("succeeded", 2)
    assert {record["failure"] for record in own if record["type"] == "returned"} == {"preempted"}
    steps = [point["step"] for record in own if record["type"] == "reported" for point in record["points"]]
    assert steps == list(range(epochs)), "every epoch is told once: none is trained again, none is missing"
    assert "1" in weights
    assert [each["kind"] for each in summary["best"]] == ["inherit"]


def test_the_stages_of_pdarts(experiment: Maker, installation: Installation) -> None:
    """Three supernets, each deeper and of fewer candidates; the found cells inherit from the last one's weights."""
    space = {"zoo": {"name": "darts", "args": {"channels": 2, "cells": 5, "nodes": 1, "stem": "imagenet"}}}
    stages = {"epochs": 2, "warmupEpochs": 1, "depths": [3, 4, 5], "keep": [5, 3], "restrictedSkips": 1}
    found = experiment("pdarts").apply(search("pdarts", space, stages))
    found.until_condition("Succeeded", seconds=400)
    records, summary, weights = records_of(found, installation)
    submitted = [record for record in records if record["type"] == "submitted"]
    assert [each["kind"] for each in submitted] == ["supernet"] * 3 + ["inherit"]
    supernets, inherit = submitted[:3], submitted[3]
    assert [each["params"]["modelArgs"]["cells"] for each in supernets] == [3, 4, 5]
    candidates = [each["params"]["config"]["candidates"] for each in supernets]
    assert [{len(left) for left in each.values()} for each in candidates] == [{8}, {5}, {3}]
    for before, after in itertools.pairwise(candidates):
        assert all(set(left) < set(before[name]) for name, left in after.items())
    assert not any("checkpointOf" in each["params"] for each in supernets), "deeper networks begin afresh, as published"
    assert inherit["params"]["checkpointOf"] == 3
    results = {record["number"]: record for record in records if record["type"] == "result"}
    assert {each["state"] for each in results.values()} == {"succeeded"}
    assert "3" in weights
    architecture = summary["best"][0]["architecture"]
    operations = {name: value for name, value in architecture.items() if name in candidates[2]}
    assert operations
    assert all(value in candidates[2][name] for name, value in operations.items())
