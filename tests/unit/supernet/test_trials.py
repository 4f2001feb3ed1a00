"""Supernets of other arguments than the searched networks, through whole trials; and the examples' manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.supernets import DATA, context_of

import archsearch
from archsearch.errors import UserError
from archsearch.evaluate.kinds import run_kind, set_up
from archsearch.nn import describe, fix
from archsearch.protocol import TrialKind
from archsearch.spec.experiment import Constraint, EvaluatorSpec, ModelSpace
from archsearch.supernet.run import build_overlaid
from archsearch.trial.context import Infeasible, TrialContext
from archsearch.zoo.darts import DARTS
from archsearch.zoo.nasbench201 import NASBench201
from archsearch_cli.output import Format
from archsearch_cli.validate import validate_file

EXAMPLES = Path(__file__).parents[3] / "examples" / "oneshot"
SPACE = {"zoo": {"name": "nasbench201", "args": {"channels": 3, "cells": 1}}}
DIGEST = describe(NASBench201(channels=1, cells=1)).digest
CELLS = {"zoo": {"name": "darts", "args": {"channels": 2, "cells": 4, "nodes": 1}}}
CELLS_SPACE = ModelSpace.model_validate(CELLS)
DARTS_DIGEST = describe(DARTS(channels=2, cells=4, nodes=1)).digest
CONFIG = {"epochs": 1, "batchSize": 32, "warmupEpochs": 0}


def trial(directory: Path, kind: TrialKind, *, source: Path | None = None, **changes: Any) -> TrialContext:
    assignment = context_of(directory / "unused").assignment.model_copy(
        update={
            "kind": kind,
            "model_space": ModelSpace.model_validate(changes.pop("model_space", SPACE)),
            "evaluator": EvaluatorSpec.model_validate({"name": "classification", "config": DATA}),
            "space_digest": DIGEST,
            **changes,
        }
    )
    return TrialContext(assignment, directory / kind.value, threads=1, input_checkpoint=source)


def supernet(directory: Path, args: dict[str, Any], **changes: Any) -> Any:
    params = {"trainer": "darts", "config": CONFIG, "modelArgs": args}
    context = trial(directory, TrialKind.SUPERNET, params=params, **changes)
    return context, run_kind(context)


def test_a_narrower_supernet_is_trained_inherited_from_and_exported(tmp_path: Path) -> None:
    context, result = supernet(tmp_path, {"channels": 2})
    (found,) = result.payload["architectures"]
    weights = context.save_final_weights(result.metrics)
    assert weights is not None
    tensors, _ = trial(tmp_path, TrialKind.INHERIT, source=weights).load_input() or ({}, {})
    assert tensors["stem.0.weight"].shape[0] == 2
    inherit: dict[str, Any] = {"checkpointOf": 1, "checkpoint": "x", "modelArgs": {"channels": 2}, "recalibrate": 2}
    given: dict[str, Any] = {"source": weights, "architecture": found["architecture"]}
    judged = run_kind(trial(tmp_path, TrialKind.INHERIT, params=inherit, **given))
    assert 0 <= judged.metrics["accuracy"] <= 1
    with pytest.raises(UserError, match="no supernet of NASBench201"):
        run_kind(trial(tmp_path, TrialKind.INHERIT, params={**inherit, "modelArgs": {}}, **given))
    network = fix(NASBench201(channels=3, cells=1, input_channels=1), found["architecture"])
    size = sum(each.numel() for each in network.parameters())
    limits = {most: [Constraint(metric="params", max=str(most))] for most in (size, size - 1)}
    costs = run_kind(trial(tmp_path, TrialKind.INHERIT, params=inherit, constraints=limits[size], **given)).metrics
    assert costs == {**judged.metrics, "params": size}, "constraints are on the network that the search is for"
    with pytest.raises(Infeasible, match=f"params is {size}, outside the constraint"):
        run_kind(trial(tmp_path, TrialKind.INHERIT, params=inherit, constraints=limits[size - 1], **given))
    params = {**inherit, "target": "best", "inherited": True}
    export = trial(tmp_path, TrialKind.EXPORT, params=params, **given)
    assert run_kind(export).metrics["accuracy"] == judged.metrics["accuracy"]
    model = archsearch.load(export.artifacts)
    assert model.get_parameter("stem.0.weight").shape[0] == 2


@pytest.mark.parametrize(
    ("space", "args", "words"),
    [
        (SPACE, {"depth": 5}, "'nasbench201' does not take the arguments.*'depth'"),
        (SPACE, [1], "modelArgs is a mapping"),
        (CELLS, {"nodes": 2}, "has other choices than the search"),
    ],
    ids=["unknown", "no-mapping", "other-choices"],
)
def test_arguments_that_do_not_fit_fail_the_trial_before_it_trains(
    tmp_path: Path, space: Any, args: Any, words: str
) -> None:
    digest = DARTS_DIGEST if space is CELLS else DIGEST
    with pytest.raises(UserError, match=words):
        supernet(tmp_path, args, model_space=space, space_digest=digest)


def test_depth_may_differ_though_choices_then_decide_other_places(tmp_path: Path) -> None:
    setup = set_up(EvaluatorSpec.model_validate({"name": "classification", "config": DATA}), CELLS_SPACE)
    assignment = trial(
        tmp_path,
        TrialKind.SUPERNET,
        model_space=CELLS,
        space_digest=DARTS_DIGEST,
        params={"modelArgs": {"cells": 3}},
    ).assignment
    model, space, made = build_overlaid(setup, assignment)
    assert len(model.cells) == 3  # type: ignore[arg-type]
    assert space.digest != DARTS_DIGEST
    assert made.zoo is not None
    assert made.zoo.args["cells"] == 3
    with pytest.raises(UserError, match="the code or its arguments changed"):
        build_overlaid(setup, assignment.model_copy(update={"space_digest": DIGEST}))


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_the_manifests_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate_file(path, (), live=False, output=Format.TABLE) == 0, capsys.readouterr().err
