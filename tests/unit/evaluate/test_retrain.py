"""Retrain trials, weights of plain trial code, and ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import archsearch
from archsearch.errors import UserError
from archsearch.evaluate import programs
from archsearch.evaluate.kinds import run_kind
from archsearch.evaluate.measuring import Inputs
from archsearch.space import Rng, SearchSpace
from archsearch.spec.problems import SpecError
from archsearch.trial.context import TrialContext

MakeContext = Callable[..., TrialContext]
DARTS = {"zoo": {"name": "darts", "args": {"channels": 4, "cells": 3, "input_size": 32}}}


def sampled(make_context: MakeContext, **fields: Any) -> dict[str, Any]:
    space = SearchSpace.from_json(run_kind(make_context(kind="describe", **fields)).payload["space"])
    return space.sample(Rng(3)).to_json()


def test_a_retrain_trial_lays_its_config_over_and_always_keeps_weights(make_context: MakeContext, line: Any) -> None:
    architecture = sampled(make_context)
    channel = line()
    context = make_context(
        kind="retrain",
        architecture=architecture,
        params={"config": {"epochs": 3, "labelSmoothing": 0.1}},
        keep_weights="Best",
        best_value=1.0,  # nothing is better
        channel=channel,
    )
    found = run_kind(context)
    assert [point["step"] for point in channel.points()] == [0, 1, 2]
    weights = context.save_final_weights(found.metrics)
    assert weights is not None
    export = make_context(
        kind="export", architecture=architecture, params={"checkpoint": "x"}, input_checkpoint=weights
    )
    assert run_kind(export).payload["weights"] == "checkpoint"
    assert not archsearch.load(export.artifacts).training
    assert found.metrics != run_kind(make_context(architecture=architecture)).metrics


def test_retraining_may_add_drop_path_and_an_auxiliary_head(make_context: MakeContext, tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    images, labels = generator.integers(0, 256, (48, 3, 32, 32), dtype=np.uint8), np.arange(48) % 3
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    config = {"dataset": "table", "dataPath": str(tmp_path / "images.npz"), "epochs": 1, "batchSize": 16}
    fields: dict[str, Any] = {"model_space": DARTS, "evaluator": {"name": "classification", "config": config}}
    architecture = sampled(make_context, **fields)
    params = {"config": {"dropPath": 0.2, "auxiliary": True, "epochs": 2, "cutout": 8}}
    context = make_context(kind="retrain", architecture=architecture, params=params, **fields)
    metrics = run_kind(context).metrics
    assert context.model is None
    weights = context.save_final_weights(metrics)
    # The driver need not repeat the config: the checkpoint knows what the network was built with.
    export = make_context(
        kind="export", architecture=architecture, params={"checkpoint": "x"}, input_checkpoint=weights, **fields
    )
    payload = run_kind(export).payload
    assert payload["program"], payload["message"]
    arguments = json.loads((export.artifacts / "architecture.json").read_text())["modelSpace"]["zoo"]["args"]
    assert (arguments["drop_path"], arguments["auxiliary"], arguments["classes"]) == (0.2, True, 3)
    with torch.no_grad():
        assert archsearch.load(export.artifacts)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("config", [{"epoch": 3}, {"epochs": 0}])
def test_a_bad_retrain_config_is_told_at_its_own_place(make_context: MakeContext, config: dict[str, Any]) -> None:
    context = make_context(kind="retrain", architecture={}, params={"config": config})
    with pytest.raises(SpecError) as caught:
        run_kind(context)
    assert caught.value.problems[0].path.startswith("spec.retrain.config.epoch")
    with pytest.raises(UserError, match="must be a mapping of options"):
        run_kind(make_context(kind="retrain", params={"config": [1]}))


PLAIN = """
import torch
from archsearch.nn import LayerChoice
from archsearch.trial import get_and_apply_next_architecture, report_final_result
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = LayerChoice({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2, bias=False)}, label="layer")
    def forward(self, x):
        return self.layer(x)
def main():
    model = Net()
    get_and_apply_next_architecture(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    report_final_result(1.0)
"""


@pytest.mark.parametrize("kept", [True, False])
def test_plain_code_is_exported_without_a_call_for_it(
    make_context: MakeContext, code: Callable[[str, str], str], kept: bool
) -> None:
    code("plain_code", PLAIN)
    fields: dict[str, Any] = {
        "model_space": {"python": {"class": "plain_code:Net", "inputShape": [3]}},
        "evaluator": {"python": "plain_code:main"},
        "architecture": {"layer": "b"},
        "objectives": [{"metric": "score"}, {"metric": "macs"}],
    }
    context = make_context(**fields)
    metrics = run_kind(context).metrics
    assert metrics == {"score": 1.0, "macs": 6.0}
    weights = context.save_final_weights(metrics)
    assert weights is not None
    params, checkpoint = ({"checkpoint": "x"}, weights) if kept else ({}, None)
    export = make_context(**{**fields, "kind": "export"}, params=params, input_checkpoint=checkpoint)
    payload = run_kind(export).payload
    assert payload["program"] == "dynamic", payload["message"]
    model = archsearch.load(export.artifacts, trust_code=True)
    with torch.no_grad():
        assert model(torch.ones(1, 3)).tolist() == [[1.5, 1.5]]


def test_an_onnx_model_gives_the_same_outputs(make_context: MakeContext) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    architecture = sampled(make_context)
    export = make_context(kind="export", architecture=architecture, params={"formats": ["onnx"]})
    payload = run_kind(export).payload
    assert (payload["onnx"], payload["onnxMessage"]) == ("dynamic", "")
    assert payload["files"] == ["architecture.json", "manifest.json", "model.onnx", "model.pt2", "model.safetensors"]
    model = archsearch.load(export.artifacts)
    session = onnxruntime.InferenceSession(export.artifacts / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        expected = model(inputs)
    (found,) = session.run(None, {"input": inputs.numpy()})
    assert torch.allclose(expected, torch.from_numpy(found), atol=1e-5)


def test_without_the_extra_onnx_is_left_out_with_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    form, message = programs.save_onnx(torch.nn.Linear(2, 2), Inputs((2,)), tmp_path / "m.onnx")
    assert form is None
    assert "pip install 'archsearch[onnx]'" in message
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused(make_context: MakeContext) -> None:
    with pytest.raises(UserError, match="no export format 'coreml'; besides the usual files: onnx"):
        run_kind(make_context(kind="export", architecture={}, params={"formats": ["coreml"]}))
