"""The examples run: a trial of each is described, trained, exported and loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import archsearch
from archsearch.evaluate.kinds import run_kind
from archsearch.space import Rng, SearchSpace
from archsearch.spec import NASExperiment
from archsearch.trial.context import TrialContext

MakeContext = Callable[..., TrialContext]
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def beside_the_manifest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("custom_space", "plain_trial", "plain_networks", "regression_space", "text_space"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "least", "most", "output"),
    [
        ("digits", 0.8, 1.0, (10,)),
        ("custom_space", 0.8, 1.0, (10,)),
        ("plain_trial", 0.8, 1.0, (10,)),
        ("mutate_resnet", 0.7, 1.0, (10,)),
        ("mutate_transformer", 0.5, 1.0, (10,)),
        ("regression", 0.4, 0.7, (1,)),
        ("text_classification", 0.5, 0.9, (3,)),
        ("language_modelling", 5.0, 60.0, (64, 151)),
    ],
)
def test_a_trial_of_each_example_trains_exports_and_loads(
    make_context: MakeContext, name: str, least: float, most: float, output: tuple[int, ...]
) -> None:
    spec = NASExperiment.model_validate(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())).spec
    fields: dict[str, Any] = {
        "model_space": spec.model_space,
        "evaluator": spec.evaluator,
        "objectives": spec.objectives,
        "keep_weights": "Always",
    }
    described = run_kind(make_context(kind="describe", **fields)).payload
    space = SearchSpace.from_json(described["space"])
    assert space.size() >= spec.budget.max_trials
    fields |= {"architecture": space.sample(Rng(1)).to_json(), "space_digest": space.digest}
    context = make_context(**fields)
    metrics = run_kind(context).metrics
    assert least < metrics[spec.objectives[0].metric] <= most
    weights = context.save_final_weights(metrics)
    assert weights is not None
    export = make_context(
        kind="export", params={"checkpoint": "x", "target": "best"}, input_checkpoint=weights, **fields
    )
    payload = run_kind(export).payload
    assert payload["program"] == "dynamic", payload["message"]
    model = archsearch.load(export.artifacts, trust_code=True)
    with torch.no_grad():
        inputs = torch.zeros(5, *described["inputShape"])
        found = model(inputs.long() if "tokens" in model.archsearch["input"] else inputs)
    assert found.shape == (5, *output)


def test_the_plain_script_runs_by_hand_with_the_first_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    import plain_trial  # type: ignore[import-not-found]

    torch.manual_seed(0)
    plain_trial.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["intermediate result"] * 5 + ["final result"]
    assert float(lines[-1].partition(":")[2]) > 0.7
