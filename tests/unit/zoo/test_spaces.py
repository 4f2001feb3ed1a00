"""Every space of the zoo: sampled, fixed, run forward and backward, built again."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archsearch import zoo
from archsearch.nn import Mutable, StandaloneWarning, describe, fix
from archsearch.registry import find, registered
from archsearch.space import Rng, SearchSpace
from archsearch.zoo.operations import DropPath

CELLS = {"channels": 2, "cells": 4, "classes": 3}
IMAGE = (2, 3, 8, 8)
SPACES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "darts": (CELLS | {"auxiliary": True, "drop_path": 0.2}, IMAGE),
    "nasnet": (CELLS | {"concat": "chosen"}, IMAGE),
    "amoebanet": (CELLS | {"stem": "imagenet", "auxiliary": True}, (2, 3, 33, 33)),
    "pnas": (CELLS, IMAGE),
    "enas-micro": (CELLS, (2, 3, 7, 7)),
    "enas-macro": ({"channels": 4, "layers": 5, "classes": 3}, IMAGE),
    "nasbench101": ({"channels": 4, "cells": 1, "classes": 3}, IMAGE),
    "nasbench201": ({"channels": 4, "cells": 1, "classes": 3}, IMAGE),
    "proxylessnas": ({"width": 0.1, "depth": 2, "classes": 3, "stem": "cifar"}, IMAGE),
    "mobilenetv3": ({"width": 0.1, "depth": 2, "classes": 3}, (2, 3, 32, 32)),
    "shufflenet-spos": ({"width": 0.1, "classes": 3, "channel_search": True, "stem": "cifar"}, IMAGE),
    "textnas": ({"vocabulary": 20, "embedding_size": 6, "hidden": 8, "layers": 7, "classes": 3}, (2, 9)),
    "elastic-transformer": (
        {"input_size": 8, "widths": [8, 12], "depth": [1, 3], "heads": [1, 2], "head_width": 4, "classes": 3},
        IMAGE,
    ),
}
MADE: dict[str, tuple[nn.Module, SearchSpace]] = {}


def made(name: str) -> tuple[nn.Module, SearchSpace]:
    if name not in MADE:
        torch.manual_seed(0)
        model = find("archsearch.spaces", name)(**SPACES[name][0])
        MADE[name] = model, describe(model)
    return MADE[name]


def example(name: str) -> Tensor:
    shape = SPACES[name][1]
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(shape, generator=generator) if len(shape) > 2 else torch.randint(1, 20, shape, generator=generator)
    )


def logits(out: Any) -> list[Tensor]:
    return list(out) if isinstance(out, tuple) else [out]


def test_every_registered_space_is_here() -> None:
    assert set(registered("archsearch.spaces")) == set(SPACES)


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_sample_fix_forward_and_backward(name: str, seed: int) -> None:
    model, space = made(name)
    architecture = space.sample(Rng(seed))
    network = fix(model, architecture).train()
    assert describe(network).choices == ()
    assert not any(isinstance(module, Mutable) for module in network.modules())
    outs = logits(network(example(name)))
    assert [out.shape for out in outs] == [(2, 3)] * (2 if SPACES[name][0].get("auxiliary") else 1)
    sum(out.sum() for out in outs).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in network.parameters())
    assert len(logits(network.eval()(example(name)))) == 1


@pytest.mark.parametrize("name", SPACES)
def test_built_alike_and_the_same_again(name: str) -> None:
    model, space = made(name)
    architecture = space.sample(Rng(name))
    fixed = fix(model, architecture)
    torch.manual_seed(5)
    first = zoo.build(name, architecture, **SPACES[name][0])
    torch.manual_seed(5)
    again = zoo.build(name, architecture.to_json(), **SPACES[name][0])
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in fixed.state_dict().items()}
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    torch.testing.assert_close(first.eval()(example(name)), again.eval()(example(name)))
    assert zoo.architecture(name, architecture, **SPACES[name][0]) == architecture


@pytest.mark.parametrize("name", SPACES)
def test_standalone_and_first_candidates(name: str) -> None:
    model, space = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StandaloneWarning)
        assert logits(model.eval()(example(name)))[0].shape == (2, 3)
    assert describe(model) == space
    network = zoo.build(name, **SPACES[name][0])
    assert logits(network.eval()(example(name)))[0].shape == (2, 3)


def test_weights_are_inherited_and_sliced_where_a_cell_merges_fewer_nodes() -> None:
    model: Any = made("nasnet")[0]
    space = made("nasnet")[1]
    architecture = space.sample(Rng(1)).to_json() | {"normal/concat": [3, 6], "reduce/concat": [2, 3, 4, 5, 6]}
    network: Any = fix(model, architecture)
    # Cells: normal, reduce, reduce, normal. The second cell's last input is the first one's nodes 3 and 6 of 2 … 6.
    full, kept = model.cells[1].second[1].module.weight, network.cells[1].second[1].weight
    channels = CELLS["channels"]
    expected = torch.cat([full[:, 1 * channels : 2 * channels], full[:, 4 * channels : 5 * channels]], dim=1)
    assert torch.equal(kept, expected)
    assert network.cells[1].second[1].in_channels == 2 * channels
    assert network.classifier.in_features == 2 * 4 * channels
    assert torch.equal(network.stem[0][0].weight, model.stem[0][0].weight)
    assert torch.equal(network.cells[2].second[1].weight, model.cells[2].second[1].module.weight)


def test_drop_path_is_on_operations_but_not_on_identities() -> None:
    network = zoo.build("darts", "DARTS_V2", channels=2, cells=3, drop_path=0.5)
    paths = [module for module in network.modules() if isinstance(module, DropPath)]
    # One normal cell with three skip connections among eight operations; all of the two reductions' operations but the
    # three skip connections from nodes.
    assert len(paths) == (8 - 2) + 2 * (8 - 3)
    zoo.set_drop_path(network, 0.25)
    assert {path.probability for path in paths} == {0.25}
    x = torch.ones(400, 1, 1, 1)
    dropped = paths[0].train()(x)
    assert {round(value, 4) for value in dropped.unique().tolist()} == {0.0, round(1 / 0.75, 4)}
    assert torch.equal(paths[0].eval()(x), x)
    plain = zoo.build("darts", "DARTS_V2", channels=2, cells=3)
    assert plain.state_dict().keys() == network.state_dict().keys()


def test_nasbench101_cells_are_valid() -> None:
    _, space = made("nasbench101")
    rng = Rng(101)
    for _ in range(30):
        architecture = space.sample(rng)
        edges = [len(v) for k, v in architecture.items() if k.startswith("inputs_") and isinstance(v, tuple)]
        assert sum(edges) <= 9
        assert min(edges) >= 1
        assert len(edges) == int(architecture["vertices"]) - 1  # type: ignore[arg-type]


def test_text_ignores_its_padding() -> None:
    network = zoo.build("textnas", made("textnas")[1].sample(Rng(3)), **SPACES["textnas"][0]).eval()
    words = example("textnas")
    other = network(torch.cat([words, words], dim=0))
    torch.testing.assert_close(other[:2], network(words))
    assert torch.isfinite(network(torch.zeros(1, 4, dtype=torch.int64))).all()
