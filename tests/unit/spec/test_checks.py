"""The checks that need no outside, where the table of bad manifests does not reach: third parties and other images."""

from __future__ import annotations

import copy
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from support.bad_manifests import SOUND

from archsearch import registry
from archsearch.spec import NASExperiment
from archsearch_strategies.checks import check_document, check_experiment


def said(**changes: Any) -> str:
    document = copy.deepcopy(SOUND)
    document["spec"].update(changes)
    return "\n".join(str(problem) for problem in check_experiment(NASExperiment.model_validate(document)))


def test_the_sound_one_is_sound() -> None:
    assert said() == ""


def test_names_of_another_image_are_left_to_it() -> None:
    strategy, evaluator = {"name": "their-search"}, {"name": "their-evaluator"}
    zoo = {"zoo": {"name": "their-space"}}
    assert said(strategy=strategy, driver={"image": "them:1"}) == ""
    assert said(evaluator=evaluator, modelSpace=zoo, trials={"image": "them:1"}) == ""
    refused = said(strategy=strategy, evaluator=evaluator, modelSpace=zoo)
    assert [line.split(":")[0] for line in refused.splitlines()] == [
        "spec.strategy.name",
        "spec.modelSpace.zoo.name",
        "spec.evaluator.name",
    ]


def test_a_registered_strategy_that_does_not_import_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_module_at_all:Search", "archsearch.strategies")
    monkeypatch.setattr(registry, "_entries", lambda group: {"broken": broken})
    text = said(strategy={"name": "broken"}, evaluator={"python": "m:f"}, modelSpace={"python": {"class": "m:N"}})
    assert text.startswith("spec.strategy.name: the strategy 'broken' (no_such_module_at_all:Search) does not load")


def test_user_code_declares_no_metrics() -> None:
    assert said(evaluator={"python": "train:fit"}, objectives=[{"metric": "anything"}]) == ""


def test_a_local_folder_is_a_place_too() -> None:
    assert said(storage={"uri": "runs/here"}) == ""
    assert said(storage={"uri": "file:///data/runs"}) == ""


def test_no_key_of_a_uri_is_shown() -> None:
    text = said(storage={"uri": "s3://AKIA:verysecret@bucket/x"})
    assert "spec.storage.uri" in text
    assert "verysecret" not in text


def test_a_bad_form_does_not_hide_bad_meaning() -> None:
    document = copy.deepcopy(SOUND)
    document["spec"]["seed"] = "x"
    document["spec"]["strategy"]["config"]["sample"] = 99
    document["spec"]["trials"] = {"queueName": "gpu", "perJob": "auto"}
    document["spec"]["evaluator"]["name"] = "clasification"
    experiment, problems = check_document(document)
    assert experiment is None
    assert {problem.path for problem in problems} == {
        "spec.seed",
        "spec.trials.perJob",
        "spec.trials.queueName",
        "spec.strategy.config",
        "spec.evaluator.name",
    }
    assert check_document({"kind": "NASExperiment", "spec": 3})[0] is None
