"""Parameters and multiply-adds of published architectures, exactly as their authors' networks have them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archsearch import zoo
from archsearch.evaluate.profile import Counts, count
from archsearch.nn import describe, fix
from archsearch.space import Rng
from archsearch.zoo.nasbench201 import OPERATIONS, NASBench201

IMAGENET: dict[str, Any] = {"channels": 48, "cells": 14, "classes": 1000, "stem": "imagenet"}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("space", "name", "plain", "with_head"),
    [
        ("darts", "DARTS_V2", 3_349_342, 3_825_768),
        ("darts", "DARTS-V1", 3_169_414, 3_645_840),
        ("darts", "PC-DARTS", 3_634_678, 4_111_104),
        ("darts", "P-DARTS", 3_433_798, 3_910_224),
        ("darts", "SNAS", 2_661_382, 3_137_808),
        ("darts", "GDAS", 3_368_782, 3_845_208),
        ("nasnet", "NASNet-A", 3_830_950, None),
        ("amoebanet", "AmoebaNet-A", 3_145_078, None),
        ("pnas", "PNASNet-5", 4_481_110, None),
        ("enas-micro", "ENAS", 3_859_894, None),
    ],
)
def test_cells_on_cifar(space: str, name: str, plain: int, with_head: int | None) -> None:
    arguments = {"channels": 36, "cells": 20, "classes": 10}
    assert parameters(zoo.build(space, name, **arguments)) == plain
    if with_head is not None:
        assert parameters(zoo.build(space, name, auxiliary=True, **arguments)) == with_head


def test_darts_on_imagenet() -> None:
    network = zoo.build("darts", "DARTS_V2", **IMAGENET)
    assert count(network, (3, 224, 224)) == Counts(4_718_752, 529_911_552)
    with_head = zoo.build("darts", "DARTS_V2", auxiliary=True, **IMAGENET)
    # ReLU, pooling, 768 → 128, normalization, 2×2 → 768, and the linear layer: no second normalization.
    assert parameters(with_head) == 4_718_752 + 768 * 128 + 2 * 128 + 4 * 128 * 768 + 769 * 1000
    assert count(with_head, (3, 224, 224)).macs == 529_911_552


@pytest.mark.parametrize(
    ("space", "name", "params", "macs"),
    [
        ("proxylessnas", "ProxylessNAS-mobile", 4_080_512, 320_427_584),
        ("proxylessnas", "proxyless-gpu", 7_119_848, 465_260_160),
        ("proxylessnas", "proxyless-cpu", 4_361_648, 439_243_864),
        ("mobilenetv3", "MobileNetV3-Large", 5_483_032, 216_589_760),
        ("shufflenet-spos", "SPOS", 3_558_464, 322_918_720),
    ],
)
def test_chains_on_imagenet(space: str, name: str, params: int, macs: int) -> None:
    assert count(zoo.build(space, name, classes=1000), (3, 224, 224)) == Counts(params, macs)


def test_nasbench101_example() -> None:
    assert parameters(zoo.build("nasbench101", "Inception")) == 2_694_282


def test_nasbench201_by_the_formula() -> None:
    """All 15,625 cells have what their edges add up to: each edge alone, and a sample of whole networks."""
    with torch.device("meta"):
        model = NASBench201()
        space = describe(model)
        rest = dict.fromkeys([choice.name for choice in space], "none")
        empty = parameters(fix(model, rest))
        assert empty == 72_656 + 650
        own = {"none": 0, "skip_connect": 0, "nor_conv_1x1": 28_000, "nor_conv_3x3": 243_040, "avg_pool_3x3": 0}
        for choice in space:
            for operation, expected in own.items():
                assert parameters(fix(model, rest | {choice.name: operation})) - empty == expected
        rng = Rng(201)
        for _ in range(20):
            architecture = space.sample(rng)
            network = fix(model, architecture)
            assert parameters(network) == empty + sum(own[str(operation)] for operation in architecture.values())


TABLES = os.environ.get("ARCHSEARCH_TEST_TABLES", "")


@pytest.mark.skipif(not TABLES, reason="ARCHSEARCH_TEST_TABLES names no folder of tables")
def test_nasbench201_by_the_benchmarks_own_table() -> None:
    """Every row's `params` is the sum of its edges', and two hundred rows are built for real."""
    with np.load(Path(TABLES) / "nasbench201_cifar10.npz") as table:
        ops, params = table["ops"], table["params"]
    edges = np.array([0, 0, 28_000, 243_040, 0])[ops].sum(1)
    assert (72_656 + 650 + edges == params).all()
    with torch.device("meta"):
        model = NASBench201()
        space = describe(model)
        rng = Rng("table")
        for row in (rng.integer(len(ops)) for _ in range(200)):
            choices = zip([choice.name for choice in space], ops[row], strict=True)
            network = fix(model, {name: OPERATIONS[operation] for name, operation in choices})
            assert parameters(network) == params[row]
