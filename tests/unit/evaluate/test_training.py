"""The shared trainer: schedules, augmentation, precision, clipping, drop-path, auxiliary heads; resumed to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.evaluate.augmentation import cutout, random_crop, random_flip
from archsearch.evaluate.classification import Classification, ClassificationConfig
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.optimization import Stepper, learning_rate
from archsearch.evaluate.training import Trainer
from archsearch.spec.problems import SpecError
from archsearch.trial.context import TrialContext, TrialReleased

MakeContext = Callable[..., TrialContext]
OPTIONS = {"dataset": "digits", "epochs": 3, "batchSize": 64, "trainSize": 320, "validationSize": 128}


class Dropping(nn.Module):
    """Drops samples in training, and keeps the probabilities that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []
        self._probability = 0.0

    @property
    def drop_path_probability(self) -> float:
        return self._probability

    @drop_path_probability.setter
    def drop_path_probability(self, value: float) -> None:
        self.seen.append(value)
        self._probability = value

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self._probability:
            return x
        keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self._probability
        return x * keep / (1 - self._probability)


class Network(nn.Module):
    """With drop-path, batch statistics and an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.dropping = Dropping()
        self.head, self.side = nn.Linear(256, 10), nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.dropping(self.body(images)).flatten(1)
        return (self.head(features), self.side(features)) if self.training else self.head(features)


def train(context: TrialContext, **options: Any) -> tuple[dict[str, float], Network]:
    seed_everything(context.seed)
    model = Network()
    return Classification.configure({**OPTIONS, **options}).evaluate(model, context), model


EVERYTHING = {
    "randomCrop": 2,
    "horizontalFlip": True,
    "cutout": 3,
    "labelSmoothing": 0.1,
    "clipNorm": 1.0,
    "dropPath": 0.3,
    "auxiliary": True,
    "warmupEpochs": 0.5,
    "optimizer": "rmsprop",
    "learningRate": 0.002,
    "schedule": "linear",
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("polls", [4, 12])
def test_with_everything_on_a_released_trial_resumes_to_the_bit(
    make_context: MakeContext, line: Any, precision: str, polls: int
) -> None:
    options = {**EVERYTHING, "precision": precision}
    whole, whole_model = train(make_context(), **options)
    channel = line("release", polls)
    context = make_context(channel=channel)
    with pytest.raises(TrialReleased):
        train(context, **options)
    name = next(message["name"] for message in channel.sent if message["type"] == "checkpoint")
    torch.rand(5)
    found, model = train(make_context(resume=context.directory / "checkpoints" / name), **options)
    assert found == whole
    expected = whole_model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_each_option_changes_the_training(make_context: MakeContext) -> None:
    plain, _ = train(make_context())
    for name in ("randomCrop", "horizontalFlip", "cutout", "labelSmoothing", "warmupEpochs", "dropPath"):
        assert train(make_context(), **{name: EVERYTHING[name]})[0] != plain, name
    assert train(make_context(), clipNorm=0.05)[0] != plain
    assert train(make_context(), precision="bfloat16")[0] != plain
    assert train(make_context(), auxiliaryWeight=0)[0] != plain


def test_drop_path_grows_from_nothing_epoch_by_epoch(make_context: MakeContext) -> None:
    _, model = train(make_context(), dropPath=0.3)
    assert model.dropping.seen == pytest.approx([0.0, 0.1, 0.2])
    _, untouched = train(make_context())
    assert untouched.dropping.seen == []


def test_the_zoos_drop_path_is_set_too(make_context: MakeContext) -> None:
    from archsearch.zoo.operations import DropPath

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), DropPath(0.0))
    Classification.configure({**OPTIONS, "dropPath": 0.3}).evaluate(model, make_context())
    assert model[2].probability == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropPath": 0.2}, "dropPath is 0.2, but Sequential has no drop-path"),
        ({"auxiliary": True}, "auxiliary is true, but Sequential gives no auxiliary output"),
        ({"precision": "float16"}, "float16 needs a GPU"),
        ({"dataset": "wine", "trainSize": 100, "validationSize": 30, "cutout": 2}, "inputs of 'wine' have the shape"),
    ],
)
def test_what_the_network_or_the_machine_lacks_is_told(
    make_context: MakeContext, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialContext, "device", property(lambda self: "cpu"))
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(1, 1, 8, 8) if "dataset" not in options else torch.zeros(1, 13))
    with pytest.raises(UserError, match=words):
        Classification.configure({**OPTIONS, **options}).evaluate(model, make_context())


def test_a_last_batch_of_one_joins_the_batch_before(make_context: MakeContext) -> None:
    sizes: list[int] = []

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                sizes.append(len(x))
            return self.body(x)

    Classification.configure({**OPTIONS, "epochs": 1, "trainSize": 129}).evaluate(Normalised(), make_context())
    assert sizes == [64, 65]


def test_gradients_are_clipped_to_the_norm() -> None:
    model = nn.Linear(4, 1)
    config = ClassificationConfig(clip_norm=0.5, momentum=0.0, weight_decay=0.0)
    before = model.weight.detach().clone()
    Stepper(model, config, "cpu").step(1000 * model(torch.ones(3, 4)).sum(), rate=1.0)
    norm = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.5, abs=1e-5)
    assert float((before - model.weight.detach()).norm()) < 0.5


def test_schedules() -> None:
    def rates(**options: Any) -> list[float]:
        config = ClassificationConfig.model_validate({"epochs": 6, "learningRate": 0.4, **options})
        return [learning_rate(config, step, 2) for step in range(12)]

    assert rates(schedule="constant") == [0.4] * 12
    assert rates(schedule="linear")[6] == pytest.approx(0.2)
    assert rates(schedule="step", stepEpochs=2) == pytest.approx([0.4] * 4 + [0.04] * 4 + [0.004] * 4)
    warm = rates(warmupEpochs=2, minimumLearningRate=0.1)
    assert warm[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert warm[8] == pytest.approx(0.25)  # half way through the cosine
    assert warm == [*warm[:4], *sorted(warm[4:], reverse=True)]
    assert min(warm[4:]) > 0.1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"epochs": 2, "warmupEpochs": 2}, "warmupEpochs (2) must be below epochs (2)"),
        ({"minimumLearningRate": 1}, "minimumLearningRate (1) is above learningRate"),
        ({"dataset": "wine", "targetColumn": "x"}, "targetColumn is for dataset table"),
        ({"dataset": "mnist-5k", "validation": "test"}, "mnist-5k has no test set of its own"),
        ({"dataset": "image-folder"}, "needs dataPath"),
        ({"schedule": "stairs"}, "'cosine', 'linear', 'step' or 'constant'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        Classification.configure(raw)
    assert words in str(caught.value)


def test_a_crop_is_a_shifted_image_with_black_around() -> None:
    images = torch.arange(1.0, 33.0).view(2, 1, 4, 4)
    found = random_crop(images, 1, torch.Generator().manual_seed(3), torch.tensor([-5.0]))
    padded = torch.full((2, 1, 6, 6), -5.0)
    padded[:, :, 1:5, 1:5] = images
    for index in range(2):
        places = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if torch.equal(found[index, 0], padded[index, 0, row : row + 4, column : column + 4])
        ]
        assert len(places) == 1, found[index]
    shifts = {
        tuple(random_crop(images, 1, torch.Generator().manual_seed(seed), torch.zeros(1))[0, 0].flatten().tolist())
        for seed in range(200)
    }
    assert len(shifts) == 9


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(400, 2, 3, 3)
    found = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(found[i], images[i].flip(2)) for i in range(400)]
    assert all(done or torch.equal(found[i], images[i]) for i, done in enumerate(mirrored))
    assert 150 < sum(mirrored) < 250


def test_cutout_blanks_a_square_cut_at_the_borders() -> None:
    images = torch.ones(300, 2, 8, 8)
    found = cutout(images, 4, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, 0], found[:, 1])
    holes = [image[0] == 0 for image in found]
    for hole in holes:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert len(rows) <= 4 and len(columns) <= 4
        assert int(hole.sum()) == len(rows) * len(columns)
    sizes = {int(hole.sum()) for hole in holes}
    assert max(sizes) == 16
    assert min(sizes) < 16


def test_top5_counts_the_five_largest(make_context: MakeContext) -> None:
    metrics, _ = train(make_context())
    assert metrics["accuracy"] < metrics["top5"] <= 1.0
    config = ClassificationConfig
    assert "top5" not in Classification.reported(config(dataset="wine"))
    assert "top5" not in Classification.reported(config(dataset="digits", classes=5))
    assert "top5" in Classification.reported(config(dataset="idx", data_path="/nowhere"))


def test_a_table_is_classified(make_context: MakeContext) -> None:
    seed_everything(0)
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
    metrics = Classification.configure({"dataset": "breast-cancer", "epochs": 8}).evaluate(model, make_context())
    assert metrics["accuracy"] > 0.93
    assert math.isfinite(metrics["loss"])


def test_large_parts_stay_where_they_are(tmp_path: Path, make_context: MakeContext) -> None:
    evaluator = Classification.configure({**OPTIONS, "epochs": 1})
    trainer = Trainer(Network(), evaluator.config, evaluator.task(), make_context())
    assert trainer.train_part is evaluator.task().train
    inputs, labels = trainer.train_part.batch(torch.tensor([3, 5]), "cpu")
    assert torch.equal(inputs, evaluator.task().train.inputs[[3, 5]])
    assert labels.shape == (2,)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_on_a_device_a_released_trial_resumes_with_its_loss_scale(
    make_context: MakeContext, line: Any, precision: str
) -> None:
    options = {**EVERYTHING, "precision": precision}
    whole, _ = train(make_context(), **options)
    channel = line("release", 12)
    context = make_context(channel=channel)
    with pytest.raises(TrialReleased):
        train(context, **options)
    name = next(message["name"] for message in channel.sent if message["type"] == "checkpoint")
    found, _ = train(make_context(resume=context.directory / "checkpoints" / name), **options)
    assert found == whole
