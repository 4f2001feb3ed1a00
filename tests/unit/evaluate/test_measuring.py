"""What a network costs, alone and as profile trials, objectives and constraints."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate import measuring
from archsearch.evaluate.base import PROFILE_METRICS
from archsearch.evaluate.kinds import run_kind
from archsearch.evaluate.measuring import Inputs, latency, multiply_adds, parameters, peak_memory, profile_metrics
from archsearch.registry import find, registered
from archsearch.space import Rng, SearchSpace
from archsearch.trial.context import Infeasible, TrialContext

MakeContext = Callable[..., TrialContext]


def convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(6272, 10))


def test_counts_are_the_arithmetic() -> None:
    model = convolutional()
    assert parameters(model) == 8 * 28 + 8 * 10 + 62_730
    assert multiply_adds(model, Inputs((3, 32, 32))) == 8 * 27 * 30 * 30 + 8 * 9 * 28 * 28 + 62_720


def test_networks_that_need_their_data_are_counted_by_running_them() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.attention = nn.GRU(8, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out = self.gru(x)[0]
            return self.attention(out, out, out)[0] if float(x.sum()) != 1e9 else out

    wanted = 5 * 3 * (64 + 64) + 5 * 4 * 64 + 2 * 5 * 5 * 8
    assert multiply_adds(Branching(), Inputs((5, 8))) == wanted


def test_peak_memory_is_parameters_and_what_lives_at_once() -> None:
    model = convolutional()
    tensors = 4 * (parameters(model) + 3 * 32 * 32)
    assert peak_memory(model, Inputs((3, 32, 32))) == tensors + 4 * 2 * 8 * 30 * 30
    assert peak_memory(model, Inputs((3, 32, 32))) == peak_memory(model, Inputs((3, 32, 32)))
    in_place = nn.Sequential(model[0], nn.ReLU(inplace=True), *model[2:])
    assert peak_memory(in_place, Inputs((3, 32, 32))) < peak_memory(model, Inputs((3, 32, 32)))


def test_measuring_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    profile_metrics(PROFILE_METRICS, model, Inputs((1, 8, 8)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model[1].training, model[2].training) == (True, True, False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_latency_is_measured_with_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    allowed = os.sched_getaffinity(0)
    forward = measuring._forward

    def watched(model: nn.Module, example: Tensor) -> None:
        seen.append((torch.get_num_threads(), len(os.sched_getaffinity(0))))
        forward(model, example)

    monkeypatch.setattr(measuring, "_forward", watched)
    threads = torch.get_num_threads()
    found = latency(nn.Linear(4, 4), Inputs((4,)), threads=1, warm_up=2, repeats=7)
    assert seen == [(1, 1)] * 9
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, allowed)
    assert 0 < found.median < 1000
    assert found.spread >= 0
    assert (found.repeats, found.threads) == (7, 1)
    assert found.device


def test_one_measures_after_the_other(tmp_path: Path) -> None:
    done = threading.Event()

    def measure() -> None:
        profile_metrics(["latencyMs"], nn.Linear(2, 2), Inputs((2,)), lock=tmp_path / "lock")
        done.set()

    with (tmp_path / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        other = threading.Thread(target=measure)
        other.start()
        assert not done.wait(0.2)
    assert done.wait(60)
    other.join()


def test_inputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(UserError, match=r"does not take inputs of shape \(1, 4, 8, 8\)"):
        profile_metrics(["macs"], convolutional(), Inputs((4, 8, 8)))


def profiled(make_context: MakeContext, **fields: Any) -> tuple[dict[str, float], dict[str, Any]]:
    space = {"model_space": fields.get("model_space", {"zoo": {"name": "nasbench201", "args": SMALL}})}
    payload = run_kind(make_context(kind="describe", number=None, **{**space, **fields})).payload
    architecture = SearchSpace.from_json(payload["space"]).sample(Rng(1)).to_json()
    found = run_kind(make_context(kind="profile", architecture=architecture, **{**space, **fields}))
    return found.metrics, found.payload


SMALL = {"channels": 4, "cells": 1}


def test_a_profile_trial_tells_every_cost_and_how_it_was_measured(make_context: MakeContext) -> None:
    metrics, payload = profiled(make_context)
    assert tuple(metrics) == PROFILE_METRICS
    assert metrics["flops"] == 2 * metrics["macs"] > 0
    assert metrics["peakMemoryBytes"] > 4 * metrics["params"]
    assert payload["inputShape"] == [1, 8, 8]
    assert payload["threads"] == 1
    assert payload["device"]
    some, _ = profiled(make_context, params={"metrics": ["params", "macs"]})
    assert some == {name: metrics[name] for name in ("params", "macs")}
    with pytest.raises(UserError, match="has no metric 'joules'; it has params"):
        profiled(make_context, params={"metrics": ["joules"]})


@pytest.mark.parametrize("space", registered("archsearch.spaces"))
def test_every_zoo_space_can_be_profiled(make_context: MakeContext, space: str, tmp_path: Path) -> None:
    evaluator: dict[str, Any] = {"name": "classification", "config": {"dataset": "cifar10", "dataPath": str(tmp_path)}}
    if space == "textnas":
        (tmp_path / "texts.tsv").write_text("good\ta fine day\nbad\ta poor day\n" * 5)
        evaluator = {
            "name": "text-classification",
            "config": {"dataset": "text-file", "dataPath": str(tmp_path / "texts.tsv"), "length": 12},
        }
    small = getattr(find("archsearch.spaces", space), "small", {})  # what differs is the form of in- and outputs
    args = {name: value for name, value in small.items() if name not in ("vocabulary", "channels")}
    metrics, payload = profiled(
        make_context,
        model_space={"zoo": {"name": space, "args": args}},
        evaluator=evaluator,
        params={"metrics": ["params", "macs", "flops", "peakMemoryBytes"]},
    )
    assert metrics["params"] > 0
    assert metrics["macs"] > 0
    assert metrics["peakMemoryBytes"] > 4 * metrics["params"]
    assert payload["inputShape"] == ([12] if space == "textnas" else [3, 32, 32])


def evaluated(make_context: MakeContext, **fields: Any) -> dict[str, float]:
    payload = run_kind(make_context(kind="describe", number=None)).payload
    architecture = SearchSpace.from_json(payload["space"]).sample(Rng(1)).to_json()
    return run_kind(make_context(architecture=architecture, **fields)).metrics


def test_an_objective_that_names_a_cost_has_it_measured(make_context: MakeContext) -> None:
    objectives = [{"metric": "accuracy"}, {"metric": "params", "goal": "Minimize"}]
    plain = evaluated(make_context)
    found = evaluated(make_context, objectives=objectives)
    assert "params" not in plain
    assert {name: value for name, value in found.items() if name != "params"} == plain
    assert found["params"] == int(found["params"]) > 0
    more = evaluated(make_context, objectives=objectives, constraints=[{"metric": "latencyMs", "max": "100000"}])
    assert set(more) == {*found, "latencyMs"}


def test_outside_a_constraint_nothing_is_trained(make_context: MakeContext, line: Any) -> None:
    channel = line()
    with pytest.raises(Infeasible, match=r"params is \d+, outside the constraint \(min 5, max 10\): not trained"):
        evaluated(make_context, channel=channel, constraints=[{"metric": "params", "min": "5", "max": "10"}])
    assert channel.points() == []


SPACE = """
import torch
from archsearch.nn import LayerChoice
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = LayerChoice({"a": torch.nn.Linear(3, 1), "b": torch.nn.Identity()}, label="layer")
    def forward(self, x):
        return self.layer(x)
def fit(model):
    return {"score": 1.0}
def own(model):
    return {"score": 1.0, "params": 17}
"""


def test_user_functions_get_costs_too_and_their_own_count_first(
    make_context: MakeContext, code: Callable[[str, str], str]
) -> None:
    code("costly", SPACE)
    fields: dict[str, Any] = {
        "model_space": {"python": {"class": "costly:Net"}},
        "architecture": {"layer": "a"},
        "objectives": [{"metric": "score"}, {"metric": "params", "goal": "Minimize"}],
    }
    assert run_kind(make_context(**fields, evaluator={"python": "costly:fit"})).metrics == {"score": 1.0, "params": 4.0}
    assert run_kind(make_context(**fields, evaluator={"python": "costly:own"})).metrics["params"] == 17
    fields["objectives"].append({"metric": "macs"})
    with pytest.raises(BadMetric, match="'macs' was not reported"):
        run_kind(make_context(**fields, evaluator={"python": "costly:fit"}))
    with pytest.raises(UserError, match=r"constraint on macs cannot be checked .* give modelSpace\.python\.inputShape"):
        run_kind(
            make_context(**fields, evaluator={"python": "costly:fit"}, constraints=[{"metric": "macs", "max": "9"}])
        )
    with pytest.raises(UserError, match=r"give modelSpace\.python\.inputShape"):
        run_kind(make_context(**{**fields, "kind": "profile"}, evaluator={"python": "costly:fit"}))
