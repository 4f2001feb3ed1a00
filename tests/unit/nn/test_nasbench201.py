from __future__ import annotations

import pytest
import torch

from archsearch.errors import UserError
from archsearch.nn import describe, fix
from archsearch.registry import find
from archsearch.space import Rng
from archsearch.zoo.nasbench201 import OPERATIONS, NASBench201


@pytest.mark.parametrize("classes", [10, 120])
def test_parameters_of_the_benchmark(classes: int) -> None:
    model, rng = NASBench201(classes=classes), Rng(classes)
    space = describe(model)
    for _ in range(3):
        architecture = space.sample(rng)
        operations = list(architecture.values())
        expected = 72_656 + 65 * classes
        expected += 28_000 * operations.count("nor_conv_1x1") + 243_040 * operations.count("nor_conv_3x3")
        assert sum(p.numel() for p in fix(model, architecture).parameters()) == expected


def test_space() -> None:
    space = describe(NASBench201(channels=4, cells=2))
    assert [choice.name for choice in space] == [
        "edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3",
    ]  # fmt: skip
    assert all(choice.options == OPERATIONS and len(choice.members) == 6 for choice in space)
    assert space.size() == 15_625
    assert space.canonicaliser == "nasbench201"
    assert find("archsearch.spaces", "nasbench201") is NASBench201


@pytest.mark.parametrize("size", [1, 7, 8])
def test_small_images_forward_and_backward(size: int) -> None:
    torch.manual_seed(0)
    model = NASBench201(channels=4, cells=1, classes=3, input_channels=1)
    network = fix(model, {**dict.fromkeys([c.name for c in describe(model)], "nor_conv_3x3"), "edge_0_3": "none"})
    images = torch.randn(4, 1, size, size)
    logits = network(images)
    assert logits.shape == (4, 3)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_cell_computes_its_graph() -> None:
    model = NASBench201(channels=2, cells=1, classes=2, input_channels=1)
    only_skips = dict.fromkeys([c.name for c in describe(model)], "skip_connect")
    x = torch.randn(1, 2, 4, 4)
    # Nodes: x, x, 2x, 4x.
    assert torch.allclose(fix(model, only_skips).body[0](x), 4 * x)  # type: ignore[index, operator, union-attr]
    nothing = {**only_skips, "edge_0_3": "none", "edge_1_3": "none", "edge_2_3": "none"}
    assert not fix(model, nothing).body[0](x).any()  # type: ignore[index, operator, union-attr]


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="nasbench201: cells is a whole number from 1 on, not 0"):
        NASBench201(cells=0)
