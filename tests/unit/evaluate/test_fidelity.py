"""Trials of a fidelity: training on from less gives the same bits as training at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from archsearch.errors import UserError
from archsearch.evaluate.kinds import run_kind
from archsearch.store.checkpoint import write_checkpoint
from archsearch.trial.context import TrialContext, TrialReleased

MakeContext = Callable[..., TrialContext]

CONFIG = {
    "dataset": "digits",
    "epochs": 6,
    "batchSize": 64,
    "trainSize": 256,
    "validationSize": 64,
    "learningRate": 0.05,
    "schedule": "cosine",
    "warmupEpochs": 1.5,
    "randomCrop": 2,
}


def assignment(epochs: int | None, since: int | None = None, **options: Any) -> dict[str, Any]:
    params = {"fidelity": epochs, "resumedFidelity": since, "checkpointOf": 1 if since else None}
    return {
        "architecture": architecture(),
        "evaluator": {"name": "classification", "config": {**CONFIG, **options}},
        "params": {name: value for name, value in params.items() if value is not None},
        "keep_weights": "Always",
    }


def architecture() -> dict[str, str]:
    from archsearch.evaluate.table import find_space

    space = find_space("nasbench201")
    return space.at(12_345).to_json()


def trained(context: TrialContext) -> tuple[dict[str, float], Path]:
    metrics = run_kind(context).metrics
    folder = context.save_final_weights(metrics)
    assert folder is not None
    return metrics, folder


def weights(make_context: MakeContext, folder: Path) -> dict[str, torch.Tensor]:
    found = make_context(input_checkpoint=folder).load_input()
    assert found is not None
    return found[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_on_gives_the_same_bits_as_training_at_once(make_context: MakeContext, optimizer: str) -> None:
    whole, whole_folder = trained(make_context(**assignment(6, optimizer=optimizer)))
    folder: Path | None = None
    since: int | None = None
    for epochs in (2, 4, 6):
        torch.rand(3)
        context = make_context(input_checkpoint=folder, **assignment(epochs, since, optimizer=optimizer))
        metrics, folder = trained(context)
        since = epochs
    assert metrics == whole
    expected = weights(make_context, whole_folder)
    found = weights(make_context, folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    in_full, _ = trained(make_context(**assignment(None, optimizer=optimizer)))
    assert in_full == whole


def test_each_epoch_is_trained_and_reported_once(make_context: MakeContext, line: Any) -> None:
    first, second = line(), line()
    _, folder = trained(make_context(channel=first, **assignment(2)))
    trained(make_context(channel=second, input_checkpoint=folder, **assignment(4, 2)))
    assert [point["step"] for point in first.points()] == [0, 1]
    assert [point["step"] for point in second.points()] == [2, 3]


def test_an_interrupted_promotion_goes_on_from_its_own_checkpoint(make_context: MakeContext, line: Any) -> None:
    whole, _ = trained(make_context(**assignment(4)))
    _, folder = trained(make_context(**assignment(2)))
    channel = line("release", 5)
    context = make_context(channel=channel, input_checkpoint=folder, **assignment(4, 2))
    with pytest.raises(TrialReleased):
        run_kind(context)
    name = next(message["name"] for message in channel.sent if message["type"] == "checkpoint")
    resume = context.directory / "checkpoints" / name
    assert trained(make_context(resume=resume, input_checkpoint=folder, **assignment(4, 2)))[0] == whole


def test_without_the_earlier_weights_it_trains_from_the_start(make_context: MakeContext) -> None:
    assert trained(make_context(**assignment(4, 2)))[0] == trained(make_context(**assignment(4)))[0]


def test_weights_of_a_fidelity_are_exported_like_any(make_context: MakeContext) -> None:
    _, folder = trained(make_context(**assignment(2)))
    spec = assignment(2)
    context = make_context(input_checkpoint=folder, **spec | {"kind": "export", "params": {"checkpoint": "x"}})
    assert run_kind(context).payload["weights"] == "checkpoint"
    assert (context.artifacts / "model.safetensors").is_file()


def test_weights_without_an_optimizer_cannot_be_gone_on_with(make_context: MakeContext, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "plain", {"weight": torch.zeros(2)}, {})
    with pytest.raises(UserError, match="hold no optimizer"):
        run_kind(make_context(input_checkpoint=tmp_path / "plain", **assignment(4, 2)))


@pytest.mark.parametrize("epochs", [0, 7, 2.5, "many"])
def test_a_fidelity_is_a_number_of_epochs(make_context: MakeContext, epochs: Any) -> None:
    with pytest.raises(UserError, match="from 1 to the evaluator's 6"):
        run_kind(make_context(**assignment(4) | {"params": {"fidelity": epochs}}))


def test_user_code_keeps_and_finds_its_progress(make_context: MakeContext) -> None:
    first = make_context(params={"fidelity": 3}, keep_weights="Always")
    assert first.fidelity == 3
    assert first.load_input() is None
    assert first.load_progress() is None
    first.final_weights({"w": torch.ones(2)}, {"note": "a"})
    first.save_progress({"momentum": torch.zeros(2)}, {"epoch": 3})
    folder = first.save_final_weights({"accuracy": 1.0})
    second = make_context(input_checkpoint=folder, params={"fidelity": 9, "resumedFidelity": 3})
    loaded, progress = second.load_input(), second.load_progress()
    assert loaded is not None and progress is not None
    assert list(loaded[0]) == ["w"] and loaded[1] == {"note": "a"}
    assert list(progress[0]) == ["momentum"] and json.dumps(progress[1]) == '{"epoch": 3}'
    assert make_context().fidelity is None
