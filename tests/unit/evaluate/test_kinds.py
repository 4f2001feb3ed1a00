"""Kinds of trials: what describe, evaluate and the others give back, and how a user's mistakes are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.base import PROFILE_METRICS
from archsearch.evaluate.kinds import run_kind
from archsearch.space import Rng, SearchSpace
from archsearch.trial.context import Infeasible, TrialContext

MakeContext = Callable[..., TrialContext]
Code = Callable[[str, str], str]

SPACE = """
import torch
from torch import nn
from archsearch.nn import LayerChoice

class Net(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.conv = LayerChoice(
            {"three": nn.Conv2d(1, width, 3, padding=1), "one": nn.Conv2d(1, width, 1)}, label="conv"
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * 64, classes))

    def forward(self, inputs):
        return self.head(torch.relu(self.conv(inputs)))

class Plain(nn.Linear):
    pass

class Broken(nn.Module):
    def __init__(self):
        raise ValueError("width must be even")

class Huge(nn.Module):
    def __init__(self):
        raise MemoryError

def fit(model, context, value=0.5):
    context.report(0, {"accuracy": value})
    return value

def table(model, context):
    return {"accuracy": 0.25, "size": sum(p.numel() for p in model.parameters())}

def silent(model, context):
    pass

def reports(model, context):
    from archsearch.trial import report_final_result
    report_final_result(0.75)

def plain(value=0.5):
    import archsearch.trial
    model = Net(10)
    archsearch.trial.get_and_apply_next_architecture(model)
    archsearch.trial.report_intermediate_result(0.1)
    archsearch.trial.report_final_result(value if isinstance(model.conv, nn.Conv2d) else 0.0)

def endless():
    pass

def text(model, context):
    return "good"

def nan(model, context):
    return float("nan")

def other(model, context):
    return {"precision": 1.0}
"""
PYTHON: dict[str, Any] = {"python": {"class": "their_space:Net"}}


@pytest.fixture
def space(code: Code) -> str:
    return code("their_space", SPACE)


def described(make_context: MakeContext, **fields: Any) -> dict[str, Any]:
    payload: dict[str, Any] = run_kind(make_context(kind="describe", number=None, **fields)).payload
    return payload


def test_describe_gives_the_zoo_space_and_what_the_data_say(make_context: MakeContext) -> None:
    payload = described(make_context)
    space = SearchSpace.from_json(payload["space"])
    assert space.size() == 15625
    assert payload["digest"] == space.digest
    assert (payload["inputShape"], payload["classes"]) == ([1, 8, 8], 10)
    assert payload["metrics"] == ["accuracy", "top5", "loss", "trainLoss", *PROFILE_METRICS]


def test_describe_builds_a_users_class(make_context: MakeContext, space: str) -> None:
    payload = described(make_context, model_space=PYTHON)
    assert SearchSpace.from_json(payload["space"]).size() == 2


def test_evaluate_trains_the_chosen_network_from_its_seed(make_context: MakeContext) -> None:
    payload = described(make_context)
    space = SearchSpace.from_json(payload["space"])
    architecture = space.sample(Rng(5)).to_json()

    def run(seed: int) -> tuple[dict[str, float], Any]:
        context = make_context(
            architecture=architecture, space_digest=payload["digest"], seed=seed, keep_weights="Always"
        )
        metrics = run_kind(context).metrics
        return metrics, context.save_final_weights(metrics)

    first, folder = run(3)
    torch.rand(3)
    assert run(3)[0] == first
    assert run(4)[0] != first
    assert (folder / "manifest.json").is_file()


def test_evaluate_refuses_another_space_and_a_foreign_architecture(make_context: MakeContext, space: str) -> None:
    with pytest.raises(UserError, match="the code or its arguments changed"):
        run_kind(make_context(model_space=PYTHON, architecture={"conv": "one"}, space_digest="0" * 64))
    with pytest.raises(UserError, match="conv"):
        run_kind(make_context(model_space=PYTHON, architecture={"conv": "five"}))
    with pytest.raises(UserError, match="needs an architecture"):
        run_kind(make_context(model_space=PYTHON))


def user(make_context: MakeContext, function: str, **config: Any) -> dict[str, float]:
    return run_kind(
        make_context(
            model_space={"python": {"class": "their_space:Net", "args": {"classes": 10}}},
            evaluator={"python": f"their_space:{function}", "config": config},
            architecture={"conv": "one"},
        )
    ).metrics


def test_a_users_function_gets_the_fixed_model(make_context: MakeContext, space: str) -> None:
    assert user(make_context, "fit") == {"accuracy": 0.5}
    assert user(make_context, "fit", value=0.25) == {"accuracy": 0.25}
    assert user(make_context, "table") == {"accuracy": 0.25, "size": 4 + 4 + 256 * 10 + 10}
    assert user(make_context, "reports") == {"accuracy": 0.75}


def test_plain_trial_code_applies_the_architecture_itself(make_context: MakeContext, space: str, line: Any) -> None:
    assert user(make_context, "plain") == {"accuracy": 0.5}
    assert user(make_context, "plain", value=0.9) == {"accuracy": 0.9}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("silent", r"ended without a result: call .*report_final_result\(value\) in it, or return the metrics"),
        ("endless", r"ended without a result: call archsearch.trial.report_final_result\(value\) in it$"),
        ("text", "'accuracy' must be a number"),
        ("nan", "'accuracy' is nan"),
        ("other", "objective 'accuracy' was not reported; reported: precision"),
    ],
)
def test_bad_results_are_bad_metrics(make_context: MakeContext, space: str, function: str, message: str) -> None:
    with pytest.raises(BadMetric, match=message):
        user(make_context, function)


@pytest.mark.parametrize(
    ("model_space", "message"),
    [
        ({"zoo": {"name": "nasbench999"}}, "no search space is named 'nasbench999'; known here: .*nasbench201"),
        ({"zoo": {"name": "nasbench201", "args": {"chanels": 4}}}, "chanels.*its signature is"),
        ({"python": {"class": "their_space:Nett"}}, "has no 'Nett'; it has"),
        ({"python": {"class": "their_space:fit"}}, "expected a subclass of torch.nn.Module"),
        ({"python": {"class": "their_space:Plain", "args": {"in_features": 2, "out_features": 2}}}, "has no choices"),
        ({"python": {"class": "their_space:Broken"}}, "ValueError: width must be even .*their_space.py, line 22"),
        (
            {"python": {"class": "their_space:Net"}, "mutate": [{"match": "cnv", "remove": {}}]},
            r"modelSpace.mutate\[0\] \(remove 'cnv'\): fits no modules; it has 'conv'",
        ),
    ],
)
def test_spaces_that_cannot_be_made_are_told_in_words(
    make_context: MakeContext, space: str, model_space: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        described(make_context, model_space=model_space)


def test_exhausted_memory_and_infeasibility_are_no_mistakes_of_the_user(make_context: MakeContext, code: Code) -> None:
    code(
        "their_space",
        SPACE + "\nfrom archsearch.trial.context import Infeasible\nclass Never(nn.Module):\n"
        "    def __init__(self):\n        raise Infeasible('too wide')\n",
    )
    with pytest.raises(MemoryError):
        described(make_context, model_space={"python": {"class": "their_space:Huge"}})
    with pytest.raises(Infeasible, match="too wide"):
        described(make_context, model_space={"python": {"class": "their_space:Never"}})


def test_an_unknown_supernet_trainer_lists_the_known(make_context: MakeContext) -> None:
    with pytest.raises(UserError, match=r"no supernet trainer is named 'dartz'; known here: .*darts, "):
        run_kind(make_context(kind="supernet", params={"trainer": "dartz"}))


def test_an_unknown_evaluator_lists_the_known(make_context: MakeContext) -> None:
    with pytest.raises(UserError, match=r"no evaluator is named 'regresion'; known here: .*classification"):
        described(make_context, evaluator={"name": "regresion"})


def test_a_user_class_takes_classes_only_where_it_demands_them(make_context: MakeContext, code: Code) -> None:
    code("their_space", SPACE.replace("classes, width=4", "classes=3, width=4"))
    with pytest.raises(UserError, match="at least 10 classes"):
        run_kind(make_context(model_space=PYTHON, architecture={"conv": "one"}))


def test_the_fixed_network_has_no_choices_left(make_context: MakeContext, space: str) -> None:
    seen: list[nn.Module] = []
    import their_space  # type: ignore[import-not-found]

    def spy(model: nn.Module, context: TrialContext) -> float:
        seen.append(model)
        return 1.0

    their_space.spy = spy
    user(make_context, "spy")
    assert isinstance(seen[0].conv, nn.Conv2d)
    assert seen[0].conv.kernel_size == (1, 1)
