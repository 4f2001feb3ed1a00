"""P-DARTS: stages of growing depth, what is dropped between them, dropout on skips, their restriction at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.edge_cells import EdgeNet
from support.supernets import equal, final, resumed, tiny, trainer_of

from archsearch.errors import UserError
from archsearch.nn import describe
from archsearch.protocol import TrialKind
from archsearch.space import Rng, SearchSpace, Subset
from archsearch.spec.experiment import Objective
from archsearch.zoo.darts import DARTS
from archsearch_strategies.algorithms.pdarts import (
    PDarts,
    PDartsConfig,
    StageTrainer,
    StageTrainerConfig,
    dropout,
    kept,
    normal_cell,
)
from archsearch_strategies.strategy import AskTell

SHORT = {"warmupEpochs": 1}


def test_the_likeliest_candidates_are_kept_in_their_order() -> None:
    probabilities = {"op": {"a": 0.1, "b": 0.4, "c": 0.2, "d": 0.3}, "few": {"x": 0.0, "y": 1.0}}
    found = kept(probabilities, 2, {"op": ["a", "b", "c", "d"], "few": ["y"]})
    assert found == {"op": ["b", "d"], "few": ["y"]}
    assert kept(probabilities, 3, {"op": ["a", "c"]}) == {"op": ["a", "c"]}


def test_dropout_falls_on_a_line_and_begins_anew_when_the_architecture_learns() -> None:
    rates = [dropout(0.4, epoch, 25, 10) for epoch in range(25)]
    assert rates[0] == pytest.approx(0.4 * 24 / 25)
    assert rates[9] == pytest.approx(0.4 * 15 / 25)
    assert rates[10] == pytest.approx(0.4)
    assert rates[24] == pytest.approx(0.4 * 2.718281828 ** (-0.2 * 14))
    assert dropout(0.0, 3, 25, 10) == 0.0


def test_dropout_is_on_skip_connections_alone_and_only_in_training(tmp_path: Path) -> None:
    trainer: Any = trainer_of(StageTrainer, {**SHORT, "skipDropout": 0.8}, tmp_path, build=EdgeNet)
    place = trainer.supernet.layers["normal/op_2_0"][0]
    x = torch.rand(4, 4, 8, 8) + 1
    rate = trainer.dropout()
    assert rate == pytest.approx(0.4)  # the first of two epochs
    out = place["skip_connect"](x)
    assert 0.3 < float((out == 0).float().mean()) < 0.5
    assert torch.allclose(out[out != 0], (x / (1 - rate))[out != 0])
    assert not (place["conv"](x) == 0).any()
    place.eval()
    assert torch.equal(place["skip_connect"](x), x)


def trained(tmp_path: Path, logits: dict[str, list[float]], **options: Any) -> Any:
    trainer: Any = trainer_of(StageTrainer, {**SHORT, **options}, tmp_path, build=EdgeNet)
    with torch.no_grad():
        for name in trainer.alphas.choices:
            trainer.alphas[name].copy_(torch.tensor(logits.get(name, [0.0, 1.0, 0.5, 2.0])))
    return trainer


def test_the_least_likely_skips_of_the_normal_cell_are_given_up_and_edges_compete_anew(tmp_path: Path) -> None:
    # In the order skip_connect, conv, max_pool_3x3, none; node 3 has the inputs 0, 1 and 2, of which two are taken.
    logits = {
        "normal/op_2_0": [3.0, 1.0, 0.0, 0.0],
        "normal/op_2_1": [2.2, 0.0, 1.0, 0.0],
        "normal/op_3_0": [4.0, 0.0, 0.0, 0.0],
        "normal/op_3_1": [3.5, 2.9, 0.0, 0.0],
        "normal/op_3_2": [0.0, 1.4, 0.0, 0.0],
        "reduce/op_2_0": [3.0, 0.0, 0.0, 0.0],
        "reduce/op_2_1": [3.0, 0.0, 0.0, 0.0],
        "reduce/op_3_0": [3.0, 0.0, 0.0, 0.0],
    }
    free: Any = trained(tmp_path / "free", logits, restrictedSkips=8)
    (whole,) = free.finish()
    assert [name for name, op in whole.architecture.items() if op == "skip_connect" and "normal" in name] == [
        "normal/op_2_0", "normal/op_2_1", "normal/op_3_0", "normal/op_3_1",
    ]  # fmt: skip
    (found,) = trained(tmp_path / "two", logits).finish()
    normal = {name: op for name, op in found.architecture.items() if name.startswith("normal/")}
    # op_3_1 (0.62) was the least likely: its edge, now a convolution of 0.34, goes for op_3_2; then op_2_1 falls back.
    assert normal == {
        "normal/input_2": (0, 1),
        "normal/op_2_0": "skip_connect",
        "normal/op_2_1": "max_pool_3x3",
        "normal/input_3": (0, 2),
        "normal/op_3_0": "skip_connect",
        "normal/op_3_2": "conv",
    }
    reduce = [op for name, op in found.architecture.items() if name.startswith("reduce/op")]
    assert reduce.count("skip_connect") == 3  # the reduction cell is not restricted
    (stage,) = trained(tmp_path / "stage", logits, last=False).finish()
    assert stage.architecture == whole.architecture  # only the last stage restricts
    (bare,) = trained(tmp_path / "bare", logits, candidates={n: ["skip_connect", "none"] for n in logits}).finish()
    assert [op for n, op in bare.architecture.items() if "normal/op" in n] == ["skip_connect"] * 4  # nothing to fall to


def test_normal_cells_are_those_of_the_name_or_all() -> None:
    assert normal_cell(["normal/op_2_0", "reduce/op_2_0"]) == {"normal/op_2_0"}
    assert normal_cell(["edge_0_1", "edge_0_2"]) == {"edge_0_1", "edge_0_2"}


def test_dropped_candidates_are_neither_computed_nor_trained_nor_found(tmp_path: Path) -> None:
    candidates = {name: ["nor_conv_1x1", "avg_pool_3x3"] for name in ("edge_0_1", "edge_2_3")}
    trainer: Any = trainer_of(StageTrainer, {**SHORT, "candidates": candidates}, tmp_path)
    place = trainer.supernet.layers["edge_0_1"][0]
    place["nor_conv_3x3"].register_forward_hook(lambda *_: pytest.fail("a dropped candidate was computed"))
    before = {name: value.clone() for name, value in place["nor_conv_3x3"].state_dict().items()}
    _, (found,) = final(trainer)
    assert found.architecture["edge_0_1"] in candidates["edge_0_1"]
    assert all(torch.equal(value, before[name]) for name, value in place["nor_conv_3x3"].state_dict().items())
    probabilities = trainer.notes()["probabilities"]["edge_0_1"]
    assert probabilities["nor_conv_3x3"] == 0
    assert sum(probabilities.values()) == pytest.approx(1.0)


def test_a_stage_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = {**SHORT, "skipDropout": 0.4, "candidates": {"normal/op_2_0": ["skip_connect", "conv"]}}
    undisturbed, found = final(trainer_of(StageTrainer, options, tmp_path / "whole", build=EdgeNet))
    again, also = resumed(StageTrainer, options, tmp_path, at=4, build=EdgeNet)
    assert equal(undisturbed, again)
    assert found == also


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ({"edge_9": ["none"]}, "'edge_9', which the space does not have"),
        ({"edge_0_1": ["lstm"]}, "no candidate 'lstm'"),
    ],
)
def test_foreign_candidates_are_refused(tmp_path: Path, candidates: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trainer_of(StageTrainer, {**SHORT, "candidates": candidates}, tmp_path, build=tiny)


def test_the_stages_are_trials_of_growing_depth_and_shrinking_choices() -> None:
    space = describe(DARTS(channels=2, cells=3, input_channels=1))
    loop = AskTell(PDarts(PDartsConfig(model_args={"channels": 8})), space, [Objective(metric="accuracy")])
    layers = {c.name: [str(o) for o in c.options] for c in space.choices if not isinstance(c, Subset)}
    architecture = space.sample(Rng(0)).to_json()
    sizes = []
    for depth, rate in ((5, 0.0), (11, 0.4), (17, 0.7)):
        trial = loop.ask()
        assert trial is not None
        assert trial.kind is TrialKind.SUPERNET
        assert "checkpointOf" not in trial.params  # neither weights nor architecture parameters carry over
        assert trial.params["modelArgs"] == {"channels": 8, "cells": depth}
        config = StageTrainerConfig.model_validate(trial.params["config"])
        assert (config.epochs, config.warmup_epochs, config.batch_size) == (25, 10, 96)
        assert (config.architecture_learning_rate, config.skip_dropout) == (6e-4, rate)
        assert config.last == (depth == 17)
        (size,) = {len(names) for names in config.candidates.values()}
        sizes.append(size)
        # Later candidates are the likelier ones: the earlier ones of those left must go.
        made = {name: {op: float(i) for i, op in enumerate(ops)} for name, ops in layers.items()}
        loop.tell(trial, {}, payload={"probabilities": made, "architectures": [{"architecture": architecture}]})
        assert all(names == layers[name][8 - size :] for name, names in config.candidates.items())
    assert sizes == [8, 5, 3]
    inherit = loop.ask()
    assert inherit is not None
    assert inherit.kind is TrialKind.INHERIT
    assert inherit.params["checkpointOf"] == 3
    assert inherit.params["modelArgs"] == {"channels": 8, "cells": 17}


def test_options_and_spaces_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match="skipDropouts must have 2"):
        PDartsConfig(depths=[1, 2])
    inputs = SearchSpace((Subset("inputs", (0, 1, 2), 1),))
    (problem,) = PDarts(PDartsConfig()).check(inputs)
    assert "has none" in problem
    (problem,) = PDarts(PDartsConfig(selection="perturbation")).check(describe(tiny()))
    assert "perturbation" in problem
