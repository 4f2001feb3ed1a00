from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest

from archsearch import zoo
from archsearch.errors import UserError
from archsearch.registry import find
from archsearch.space import Architecture, ArchitectureError

SMALL = {"channels": 2, "cells": 3}
SEP, SKIP = "sep_conv_3x3", "skip_connect"
NODE = [[SEP, 0], [SKIP, 1]]
GENOTYPE: dict[str, Any] = {"normal": NODE * 4, "reduce": NODE * 4}


def test_every_published_architecture_is_in_its_space() -> None:
    for name in (
        "darts",
        "nasnet",
        "amoebanet",
        "pnas",
        "enas-micro",
        "proxylessnas",
        "mobilenetv3",
        "shufflenet-spos",
    ):
        for key, entry in zoo.published(name).items():
            architecture = zoo.architecture(name, key)
            assert isinstance(architecture, Architecture), key
            assert architecture == zoo.architecture(name, entry.notation, **entry.args)
            assert not any(choice.endswith("/concat") for choice in architecture), "the space merges as published"
            assert entry.source


def test_darts() -> None:
    architecture = zoo.architecture("darts", "darts-v2")
    assert architecture["normal/input_4"] == (0, 1)
    assert architecture["normal/op_4_1"] == SEP
    assert architecture["normal/op_4_0"] == SKIP
    assert "normal/op_4_2" not in architecture
    named = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
    entry = zoo.published("darts")["DARTS_V2"].notation
    tuples = {k: [tuple(pair) for pair in v] for k, v in entry.items() if "concat" not in k}
    genotype = named(**tuples, normal_concat=range(2, 6), reduce_concat=range(2, 6))
    assert zoo.architecture("darts", genotype) == architecture


def test_merged_nodes_as_given() -> None:
    given = GENOTYPE | {"normal_concat": [5, 3], "reduce_concat": [2]}
    architecture = zoo.architecture("darts", given)
    assert architecture["normal/concat"] == (3, 5)
    assert architecture["reduce/concat"] == (2,)
    network: Any = zoo.build("darts", given, channels=4, cells=4)
    assert network.classifier.in_features == 2 * 16  # the last cell is a normal one, of 16 channels
    again: Any = zoo.build("darts", architecture, channels=4, cells=4)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert "normal/concat" not in zoo.architecture("darts", GENOTYPE | {"normal_concat": range(2, 6)})


def test_other_numbers_of_nodes_and_few_cells() -> None:
    two = {"normal": NODE * 2, "reduce": NODE * 2}
    network: Any = zoo.build("nasnet", two, **SMALL)
    assert network.classifier.in_features == 2 * 8
    assert zoo.build("darts", "DARTS_V1", channels=2, cells=1)  # one cell, a reduction


def test_inputs_may_repeat_in_slots() -> None:
    architecture = zoo.architecture("pnas", "PNASNet")
    assert architecture["normal/input_2_0"] == architecture["normal/input_2_1"] == (0,)
    with pytest.raises(UserError, match="darts: node 2 of normal takes the input 0 twice"):
        zoo.architecture("darts", GENOTYPE | {"normal": [[SEP, 0], [SKIP, 0], *NODE * 3]})


def test_nasbench201() -> None:
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    assert zoo.architecture("nasbench201", text) == {
        "edge_0_1": "nor_conv_3x3", "edge_0_2": "none", "edge_1_2": "avg_pool_3x3",
        "edge_0_3": "skip_connect", "edge_1_3": "none", "edge_2_3": "nor_conv_1x1",
    }  # fmt: skip


def test_nasbench101_is_pruned() -> None:
    matrix = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    architecture = zoo.architecture("nasbench101", {"matrix": matrix, "operations": ["conv3x3", "maxpool3x3"]})
    assert architecture == {"vertices": 3, "inputs_1": [0], "inputs_2": [1], "op_1": "conv3x3-bn-relu"}
    whole = ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]
    assert zoo.architecture("nasbench101", {"matrix": matrix, "operations": whole}) == architecture


def test_chains_by_name_and_index() -> None:
    names = ["k3e3"] * 20 + ["k7e6"]
    assert zoo.architecture("proxylessnas", [0] * 20 + [5]) == zoo.architecture("proxylessnas", names)
    assert zoo.architecture("proxylessnas", {"blocks": names})["block_20"] == "k7e6"
    skipped = zoo.architecture("proxylessnas", [0, "zero", 6, 1] + [0] * 17)
    assert [skipped[f"block_{i}"] for i in range(4)] == ["k3e3", "zero", "zero", "k3e6"]
    spos = zoo.architecture("shufflenet-spos", [0, 1, 2, 3] * 5)
    assert [spos[f"block_{i}"] for i in range(4)] == ["k3", "k5", "k7", "xcep"]
    assert zoo.architecture("shufflenet-spos", ["k3", "k5", "k7", "xception"] * 5) == spos
    scaled = zoo.architecture("shufflenet-spos", {"blocks": [0] * 20, "channels": [4] * 20})
    assert scaled["channels_0"] == 32


def test_enas_macro_of_a_text_and_of_lists() -> None:
    text = zoo.architecture("enas-macro", "0 3 0 1 1 0")
    assert text == {"op_0": "conv_3x3", "op_1": "sep_conv_5x5", "skips_1": [], "op_2": "sep_conv_3x3", "skips_2": [0]}
    assert zoo.architecture("enas-macro", [[0], [3, 0], [1, 1, 0]]) == text
    assert zoo.architecture("enas-macro", "ENAS-macro")["op_23"] == "conv_3x3"


@pytest.mark.parametrize(
    ("space", "notation", "message"),
    [
        ("darts", "DARTS_V9", "darts has no architecture 'DARTS_V9'; published ones known here: DARTS_V2"),
        ("darts", {"normal": NODE * 4}, r"normal"),
        ("darts", GENOTYPE | {"concat": []}, r"has no \['concat'\]"),
        ("darts", GENOTYPE | {"normal": [*NODE, [SEP, 3], [SEP, 0]]}, r"normal\[2\] belongs to node 3.*0 … 2, not 3"),
        ("darts", GENOTYPE | {"normal": NODE * 4 + [[SEP, 0]]}, "two a node"),
        ("darts", GENOTYPE | {"normal_concat": [1]}, "normal_concat lists nodes from 2 to 5"),
        ("darts", GENOTYPE | {"normal": [["conv", 0], [SKIP, 1], *NODE * 3]}, "'conv' is not one of max_pool_3x3"),
        ("nasbench201", "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|", "nor_conv_5x5~0.*is no edge"),
        ("nasbench201", "|none~0|", "a notation is"),
        ("nasbench101", {"matrix": [[0, 1], [1, 0]], "operations": []}, "upper triangular"),
        ("nasbench101", {"matrix": [[0, 0], [0, 0]], "operations": []}, "no path leads"),
        ("nasbench101", {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "operations": ["conv5x5"]}, "'conv5x5'"),
        ("proxylessnas", ["k3e3"] * 20, "lists 21 blocks by name or index, not 20"),
        ("proxylessnas", ["zero"] + ["k3e3"] * 20, "block 0 is 'zero'"),
        ("proxylessnas", [9] * 21, "block 0 is 9; expected one of k3e3"),
        ("enas-macro", "0 7 0", r"layer 1.*\[7, 0\]"),
        ("textnas", "Best", "textnas has no architecture 'Best'; published ones known here: none"),
    ],
)
def test_wrong_notations(space: str, notation: Any, message: str) -> None:
    with pytest.raises((UserError, ArchitectureError), match=message):
        zoo.build(space, notation)


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        ("darts", {"chanels": 4}, "darts cannot be built with .*chanels.*it takes"),
        ("darts", {"channels": 1}, "darts: channels is a whole number from 2 on, not 1"),
        ("darts", {"stem": "mnist"}, "darts: stem is one of 'cifar', 'imagenet', not 'mnist'"),
        ("darts", {"drop_path": 1}, "darts: drop_path is a number from 0 on and below 1"),
        ("mobilenetv3", {"width": 0}, "mobilenetv3: width is a number above 0"),
        ("mobilenetv3", {"widths": [8]}, "mobilenetv3: widths are 9 numbers"),
        ("elastic-transformer", {"patch": 5}, "patch divides input_size 32, which 5 does not"),
        ("textnas", {"hidden": 30}, "hidden is a multiple of 4"),
        ("nasbench999", {}, "no search space is named 'nasbench999'"),
    ],
)
def test_wrong_arguments(space: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zoo.build(space, **arguments)


def test_an_architecture_of_another_space() -> None:
    with pytest.raises(ArchitectureError, match="edge_0_1"):
        zoo.build("darts", {"edge_0_1": "none"}, **SMALL)


def test_a_class_of_ones_own() -> None:
    cls = find("archsearch.spaces", "nasbench201")
    text = "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    assert zoo.architecture(cls, text) == zoo.architecture("nasbench201", text)


def test_every_space_takes_an_input_size() -> None:
    plain = zoo.build("nasbench201", "ResNet", channels=4, cells=1, input_size=32)
    same = zoo.build("nasbench201", "ResNet", channels=4, cells=1)
    assert [value.shape for value in plain.parameters()] == [value.shape for value in same.parameters()]
