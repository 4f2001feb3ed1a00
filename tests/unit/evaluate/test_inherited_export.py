"""Export of a network that was evaluated with a supernet's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import archsearch
from archsearch.errors import UserError
from archsearch.evaluate.kinds import run_kind, set_up
from archsearch.evaluate.models import describe_space
from archsearch.space import Rng
from archsearch.store.checkpoint import write_checkpoint
from tests.unit.evaluate.conftest import MakeContext


def test_the_exported_network_is_the_one_that_was_evaluated(make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(kind="describe")
    setup = set_up(context.assignment.evaluator, context.assignment.model_space)
    torch.manual_seed(3)
    whole, _ = setup.build(context.assignment.model_space)
    architecture = describe_space(whole).sample(Rng(2)).to_json()
    supernet = tmp_path / "supernet"
    write_checkpoint(supernet, whole.state_dict(), {})

    def run(kind: str, **params: Any) -> Any:
        params = {"checkpointOf": 1, "checkpoint": "trials/1/weights/1-1", "recalibrate": 2, **params}
        made = make_context(kind=kind, architecture=architecture, params=params, input_checkpoint=supernet)
        return made, run_kind(made)

    inherit, evaluated = run("inherit")
    export, exported = run("export", target="best", inherited=True)
    assert exported.payload["weights"] == "inherited"
    assert exported.metrics["accuracy"] == evaluated.metrics["accuracy"]
    assert inherit.save_final_weights(evaluated.metrics) is None
    model = archsearch.load(export.artifacts)
    found = model.state_dict()
    shared = whole.state_dict()
    same = [name for name in found if name in shared and torch.equal(found[name], shared[name])]
    assert same
    changed = [name for name in found if name.endswith("running_mean")]
    assert changed
    assert all(not torch.equal(found[name], torch.zeros_like(found[name])) for name in changed)
    write_checkpoint(supernet, {"other": torch.ones(2)}, {})
    with pytest.raises(UserError, match="no supernet of"):
        run("export", target="best", inherited=True)
