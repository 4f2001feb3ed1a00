"""The classification evaluator: learns, is deterministic, resumes to the bit, stops and fails in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.classification import Classification, ClassificationConfig
from archsearch.evaluate.determinism import random_state, restore_random_state, seed_everything
from archsearch.evaluate.optimization import learning_rate
from archsearch.spec.problems import SpecError
from archsearch.trial.context import TrialContext, TrialReleased, TrialStopped
from archsearch.trial.saving import Saver

MakeContext = Callable[..., TrialContext]
OPTIONS = {"dataset": "digits", "epochs": 3, "batchSize": 64, "trainSize": 320, "validationSize": 128}


def network() -> nn.Module:
    """With state beyond its weights: batch statistics, and dropout that draws from the global generator."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(256, 10)
    )


def train(context: TrialContext, **options: Any) -> tuple[dict[str, float], nn.Module]:
    seed_everything(context.seed)
    model = network()
    metrics = Classification.configure({**OPTIONS, **options}).evaluate(model, context)
    return metrics, model


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_learns_digits_and_reports_each_epoch(make_context: MakeContext, line: Any) -> None:
    channel = line()
    metrics, _ = train(make_context(channel=channel), epochs=6, trainSize=None)
    assert metrics["accuracy"] > 0.9
    assert set(metrics) == set(Classification.reported(ClassificationConfig()))
    points = channel.points()
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 5]
    assert points[-1]["metrics"] == metrics
    assert points[-1]["metrics"]["loss"] < points[0]["metrics"]["loss"]


def test_equal_seeds_give_equal_bits_and_others_do_not(make_context: MakeContext) -> None:
    first, first_model = train(make_context())
    torch.rand(17)  # whatever ran before in this process must not matter
    second, second_model = train(make_context())
    other, _ = train(make_context(seed=8))
    assert first == second
    assert same(first_model, second_model)
    assert other != first


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("polls", [3, 10, 15, 21])
def test_a_released_trial_resumes_to_the_bit(make_context: MakeContext, line: Any, optimizer: str, polls: int) -> None:
    whole, whole_model = train(make_context(), optimizer=optimizer)
    channel = line("release", polls)
    context = make_context(channel=channel)
    with pytest.raises(TrialReleased):
        train(context, optimizer=optimizer)
    names = [message["name"] for message in channel.sent if message["type"] == "checkpoint"]
    again = line()
    resumed = make_context(resume=context.directory / "checkpoints" / names[-1], channel=again)
    torch.rand(5)
    found, model = train(resumed, optimizer=optimizer)
    assert found == whole
    assert same(model, whole_model)
    steps = [point["step"] for point in channel.points() + again.points()]
    assert steps == [0, 1, 2]  # each epoch once, none twice


def test_every_checkpoint_on_the_way_resumes_to_the_same_end(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Saver.save

    def save_and_wait(self: Saver, *arguments: Any) -> None:  # so that none is replaced by a newer one
        save(self, *arguments)
        self.wait()

    monkeypatch.setattr(Saver, "save", save_and_wait)
    context = make_context(checkpoint_seconds=0.0)
    whole, _ = train(context, epochs=2)
    checkpoints = sorted((context.directory / "checkpoints").iterdir())
    assert len(checkpoints) == 2 * 5 - 1  # after each of five steps an epoch but the very last
    for checkpoint in checkpoints:
        found, _ = train(make_context(resume=checkpoint), epochs=2)
        assert found == whole, checkpoint.name


def test_a_stopped_trial_ends_with_what_it_has(make_context: MakeContext, line: Any) -> None:
    channel = line("stop", 14)
    context = make_context(channel=channel)
    with pytest.raises(TrialStopped):
        train(context)
    assert [point["step"] for point in channel.points()] == [0]
    assert set(context.last_metrics) == {"accuracy", "top5", "loss", "trainLoss"}


def test_divergence_fails_early_as_a_bad_metric(make_context: MakeContext, line: Any) -> None:
    channel = line()
    with pytest.raises(BadMetric, match=r"loss is (nan|inf) in epoch 1.*lower learningRate \(1000"):
        train(make_context(channel=channel), learningRate=1000, momentum=0.99, batchSize=8, epochs=50)
    assert channel.points() == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), r"does not take inputs of shape \(2, 1, 8, 8\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"gives \(2, 7\) .* at least 10 classes"),
        (nn.Conv2d(1, 10, 3), r"gives \(2, 10, 6, 6\)"),
        (nn.Flatten(), "no parameters to train"),
    ],
)
def test_networks_of_the_wrong_shape_are_told(make_context: MakeContext, model: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classification.configure(OPTIONS).evaluate(model, make_context())


def test_random_states_are_restored_all() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [
            random.random(),
            float(np.random.rand()),
            float(np.random.randn()),
            float(torch.rand(1)),
            random.gauss(),
        ]

    seed_everything(3)
    draw()
    tensors, state = random_state("cpu")
    expected = [draw(), draw()]
    seed_everything(4)
    restore_random_state(tensors, state, "cpu")
    assert [draw(), draw()] == expected


def test_the_cosine_starts_at_the_rate_and_falls_to_nearly_nothing() -> None:
    config = ClassificationConfig(learning_rate=0.4, epochs=4)
    rates = [learning_rate(config, step, 10) for step in range(40)]
    assert rates[0] == 0.4
    assert rates[20] == pytest.approx(0.2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.4 * (1 - math.cos(math.pi / 40))
    assert learning_rate(config.model_copy(update={"schedule": "constant"}), 39, 10) == 0.4


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({"epoch": 2}, "spec.evaluator.config.epoch", "known here: auxiliary, auxiliaryWeight, batchSize"),
        ({"epochs": 0}, "spec.evaluator.config.epochs", "greater than or equal to 1"),
        ({"learningRate": "fast"}, "spec.evaluator.config.learningRate", "valid number"),
        ({"optimizer": "lion"}, "spec.evaluator.config.optimizer", "'sgd', 'adam', 'adamw' or 'rmsprop'"),
        ({"dataset": "imagenet"}, "spec.evaluator.config.dataset", "known here: breast-cancer, cifar10"),
        ({"dataset": "cifar10"}, "spec.evaluator.config", "needs dataPath"),
        ({"validation": "test"}, "spec.evaluator.config", "use validation holdout"),
        ({"learningRate": math.nan}, "spec.evaluator.config.learningRate", "finite"),
    ],
)
def test_bad_options_name_path_and_remedy(raw: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Classification.configure(raw)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in str(problem)


def test_classes_and_shape_come_from_the_data() -> None:
    config = ClassificationConfig()
    assert Classification.input_shape(config) == (1, 8, 8)
    assert Classification.classes(config) == 10
    assert Classification.classes(ClassificationConfig(classes=12)) == 12
