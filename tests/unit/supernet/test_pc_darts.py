"""PC-DARTS: a part of the channels is mixed, the rest passed by and shuffled; edges are normalised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.edge_cells import EdgeNet
from support.supernets import equal, final, resumed, trainer_of
from torch import Tensor, nn
from torch.nn import functional

from archsearch.errors import UserError
from archsearch.nn import LayerChoice
from archsearch.supernet.mixing import Activations
from archsearch.supernet.network import Mixture
from archsearch.supernet.norms import frozen_statistics
from archsearch.supernet.parameters import derive
from archsearch.supernet.partial import PartialChannels, shuffled, take_parts
from archsearch.zoo.operations import OPERATIONS
from archsearch_strategies.algorithms.pc_darts import PCDarts, PCDartsConfig, PCDartsTrainer

SHORT = {"warmupEpochs": 1, "partialChannels": 2}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["sep_conv_3x3", "dil_conv_5x5", "skip_connect", "conv_3x3"])
def test_a_candidate_on_its_first_channels_is_the_narrower_candidate(name: str, stride: int) -> None:
    wide, narrow = OPERATIONS[name](8, stride), OPERATIONS[name](2, stride)
    take_parts([wide])
    own = narrow.state_dict()
    for key, value in wide.state_dict().items():
        cut = tuple(slice(0, size) for size in own[key].shape)
        own[key].copy_(value[cut])
    x = torch.randn(3, 8, 7, 7)
    assert torch.allclose(wide(x[:, :2]), narrow(x[:, :2]), atol=1e-6)
    for key, value in narrow.state_dict().items():  # statistics moved alike, those of the other channels not at all
        cut = tuple(slice(0, size) for size in value.shape)
        assert torch.allclose(wide.state_dict()[key][cut], value)
        if key.endswith("running_mean"):
            assert torch.equal(wide.state_dict()[key][2:], torch.zeros(6))
    wide.eval()
    narrow.eval()
    assert torch.allclose(wide(x[:, :2]), narrow(x[:, :2]), atol=1e-6)
    assert wide(x).shape == (3, 8, 7 // stride + (stride == 2), 7 // stride + (stride == 2))
    wide.train()
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    with frozen_statistics(wide):
        wide(x[:, :2])
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())


def test_the_others_pass_by_and_all_are_shuffled() -> None:
    mixer = PartialChannels(4)
    x = torch.randn(2, 8, 6, 6)
    double = nn.Conv2d(8, 8, 1, bias=False)
    nn.init.eye_(double.weight[:, :, 0, 0])
    take_parts([double])
    weights = torch.tensor([0.75, 0.25])
    out = mixer([double, nn.Identity()], (x,), {}, Mixture((0, 1), weights))
    assert torch.allclose(out, shuffled(x, 4), atol=1e-6)
    expected = x.view(2, 4, 2, 6, 6).transpose(1, 2).reshape(2, 8, 6, 6)
    assert torch.equal(shuffled(x, 4), expected)
    assert expected[:, :4].eq(x[:, ::2]).all()
    halved = mixer([nn.MaxPool2d(2)], (x,), {}, Mixture((0,), torch.ones(1)))
    assert torch.allclose(halved, shuffled(functional.max_pool2d(x, 2), 4))
    odd = torch.randn(1, 4, 5, 5)
    assert mixer([nn.AvgPool2d(3, 2, 1)], (odd,), {}, Mixture((0,), torch.ones(1))).shape == (1, 4, 3, 3)
    with pytest.raises(UserError, match="6 channels, which partialChannels 4 does not divide"):
        mixer([nn.Identity()], (x[:, :6],), {}, Mixture((0,), torch.ones(1)))


def test_joined_channels_last_the_channels_and_gradients_are_the_same() -> None:
    x = torch.randn(2, 12, 5, 6)
    layers = [nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.AvgPool2d(3, 1, 1)]
    take_parts(layers)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = x.contiguous(memory_format=layout).requires_grad_()
        weights = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)
        mixer = PartialChannels(3, Activations())
        edges = [mixer(layers, (own,), {}, Mixture((0, 1, 2), weights)) for _ in range(2)]  # which share what they read
        out = edges[0] + 2 * edges[1]
        assert edges[1].is_contiguous(memory_format=layout)
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        found.append([out, *torch.autograd.grad(loss, [own, weights, layers[0].weight])])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_inputs_of_a_node_are_normalised_and_weigh_in_the_result(tmp_path: Path) -> None:
    trainer: Any = trainer_of(PCDartsTrainer, SHORT, tmp_path, build=EdgeNet)
    trainer.follow()
    mixture = trainer.supernet.mixture("normal/input_3")
    assert mixture.chosen == (0, 1, 2)
    assert mixture.weights.sum().item() == pytest.approx(1.0)
    history = trainer.alphas.history()
    for name in history:
        if "op_3" in name:
            history[name] = [0.4, 0.3, 0.2, 0.1]
    history["normal/input_3"] = [0.2, 0.3, 0.5]
    assert derive(trainer.supernet.space, history)["normal/input_3"] == (1, 2)
    history["normal/op_3_0"] = [0.9, 0.05, 0.05, 0.0]  # 0.9 * 0.2 > 0.4 * 0.3
    assert derive(trainer.supernet.space, history)["normal/input_3"] == (0, 2)
    plain: Any = trainer_of(PCDartsTrainer, SHORT, tmp_path / "plain")
    assert all(name.startswith("edge_") for name in plain.alphas.choices)  # its edges all stay: none is normalised


def test_a_search_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return EdgeNet(nodes=1)

    undisturbed, found = final(trainer_of(PCDartsTrainer, SHORT, tmp_path / "whole", build=build))
    again, also = resumed(PCDartsTrainer, SHORT, tmp_path, at=4, build=build)
    assert equal(undisturbed, again)
    assert found == also
    assert set(build().state_dict()) == {name for name in undisturbed[0] if not name.startswith("@")}


class Narrowing(nn.Module):
    def __init__(self, *ops: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.op = LayerChoice(list(ops), label="op")
        self.head = nn.LazyLinear(10)
        with torch.no_grad():
            self.head(self.op[0](self.stem(torch.zeros(1, 1, 8, 8))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.op(self.stem(x)).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ([nn.Identity(), nn.GroupNorm(2, 4)], "GroupNorm.*part of its channels"),
        ([nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)], "partial channels need candidates that keep"),
    ],
    ids=["layer", "width"],
)
def test_candidates_that_cannot_work_on_a_part_are_refused(tmp_path: Path, ops: list[nn.Module], words: str) -> None:
    def run() -> None:
        trainer_of(PCDartsTrainer, SHORT, tmp_path, build=lambda: Narrowing(*ops)).step(0, 0)

    with pytest.raises(UserError, match=words):
        run()


def test_the_papers_defaults() -> None:
    config = PCDartsConfig()
    assert (config.epochs, config.warmup_epochs, config.batch_size, config.partial_channels) == (50, 15, 256, 4)
    assert (config.learning_rate, config.minimum_learning_rate) == (0.1, 0.0)
    assert (config.architecture_learning_rate, config.architecture_weight_decay) == (6e-4, 1e-3)
    assert PCDarts(config).Trainer is PCDartsTrainer
