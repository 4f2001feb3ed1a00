"""Zero-cost proxies: what they are on networks small enough to reckon, as trials, and against a table's own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch import zoo
from archsearch.errors import UserError
from archsearch.evaluate.classification import Classification
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.kinds import run_kind
from archsearch.evaluate.measuring import Inputs
from archsearch.evaluate.proxies import Proxy
from archsearch.evaluate.proxies.probe import Sample
from archsearch.evaluate.proxies.scoring import Scores, sample_of, score
from archsearch.evaluate.table import Table
from archsearch.space import Rng
from archsearch.trial.context import TrialContext, TrialReleased
from archsearch.zoo.building import describe_space
from archsearch_strategies.algorithms.correlation import rank_correlation

MakeContext = Callable[..., TrialContext]
TABLES = os.environ.get("ARCHSEARCH_TEST_TABLES", "")
EXAMPLES = torch.tensor([[1.0, -2.0, 3.0], [0.5, 1.0, -1.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def linear(*weights: list[list[float]], between: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """Linear layers without biases, with `between` after each but the last."""
    layers: list[nn.Module] = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight = nn.Parameter(torch.tensor(rows))
        layers += [layer, *([between()] if between is not None else [])]
    return nn.Sequential(*(layers[:-1] if between is not None else layers))


def scores(
    network: nn.Module, *names: Proxy, batches: Any = None, loss: Any = functional.mse_loss, **inputs: Any
) -> Scores:
    shown = [(EXAMPLES, TARGETS)] if batches is None else batches
    return score(network, Sample(Inputs((3,), **inputs), shown, loss), names)


def test_sizes_of_a_linear_layer() -> None:
    found = scores(nn.Linear(3, 2), Proxy.PARAMS, Proxy.FLOPS)
    assert found.values == {"params": 8.0, "flops": 12.0}


def test_gradients_are_autograds() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    functional.mse_loss(network(EXAMPLES), TARGETS).backward()  # type: ignore[no-untyped-call]
    weights = [network[0].weight, network[2].weight]
    found = scores(network, Proxy.GRAD_NORM, Proxy.SNIP)
    assert found.values["grad_norm"] == pytest.approx(sum(float(w.grad.norm()) for w in weights))
    assert found.values["snip"] == pytest.approx(sum(float((w.detach() * w.grad).abs().sum()) for w in weights))


def test_synflow_of_linear_layers_is_their_flow_once_a_layer() -> None:
    first, second = [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], [[-1.0, 2.0]]
    flow = 1 * (1 + 2 + 0.5) + 2 * (0 + 3 + 1)  # |second| |first| (1, 1, 1)
    expected = math.log1p(2 * flow)
    assert scores(linear(first, second), Proxy.SYNFLOW).values["synflow"] == pytest.approx(expected)
    normalised = linear(first, second, between=lambda: nn.BatchNorm1d(2))
    normalised[1].running_var.fill_(9.0)
    assert scores(normalised, Proxy.SYNFLOW).values["synflow"] == pytest.approx(expected)


def test_a_flow_beyond_double_precision_is_left_out_with_a_word() -> None:
    found = scores(linear(*[(np.full((3, 3), 1e30)).tolist()] * 12), Proxy.SYNFLOW, Proxy.PARAMS)
    assert found.values == {"synflow": None, "params": 108.0}
    assert "double precision" in found.left_out["synflow"]


@pytest.mark.parametrize("form", ["module", "function"])
def test_naswot_is_the_kernel_of_what_is_on(form: str) -> None:
    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x.clone()) if form == "module" else functional.relu(x)

    # On: 1 0 1 and 1 1 0: each alike with itself in 3 units, with the other in 1.
    found = scores(Rectified(), Proxy.NASWOT)
    assert found.values["naswot"] == pytest.approx(math.log(3 * 3 - 1 * 1))


def test_naswot_has_a_word_for_no_rectifiers_and_for_inputs_it_cannot_tell_apart() -> None:
    assert "no rectifiers" in scores(nn.Linear(3, 2), Proxy.NASWOT).left_out["naswot"]
    same = [(EXAMPLES.abs(), TARGETS)]
    found = scores(nn.ReLU(), Proxy.NASWOT, batches=same)
    assert found.values["naswot"] is None
    assert "do not tell all inputs" in found.left_out["naswot"]


def test_jacov_of_a_linear_map_sees_one_eigenvalue() -> None:
    small, examples = 1e-5, 2
    found = scores(linear([[1.0, -2.0, 0.5]]), Proxy.JACOV)
    terms = [examples + small, *[small] * (examples - 1)]
    assert found.values["jacov"] == pytest.approx(-sum(math.log(t) + 1 / t for t in terms), rel=1e-6)


def test_zico_is_the_mean_of_gradients_over_their_spread() -> None:
    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return (output * targets).sum()  # its gradient by a weight is input times target

    one = torch.ones(1, 1)
    shown = [(torch.tensor([[1.0, 3.0, 5.0]]), one), (torch.tensor([[3.0, -1.0, 5.0]]), one)]
    network = linear([[0.1, 0.2, 0.3]])
    # |gradients| 1, 3 and 3, 1 have the mean 2 and the deviation 1; the third weight's do not vary.
    assert scores(network, Proxy.ZICO, batches=shown, loss=loss).values["zico"] == pytest.approx(math.log(2 + 2))
    assert "two batches" in scores(network, Proxy.ZICO, batches=shown[:1], loss=loss).left_out["zico"]


def test_without_a_loss_only_what_needs_none_is_told() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    found = score(network, Sample(Inputs((3,)), [(EXAMPLES, None)]), list(Proxy))
    assert set(found.left_out) == {"grad_norm", "snip", "zico"}


def test_a_network_stays_as_it_is_and_chance_is_seeded() -> None:
    seed_everything(1)
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = scores(network, *Proxy, batches=[(EXAMPLES, TARGETS)] * 2)
    torch.rand(5)
    second = scores(network, *reversed(Proxy), batches=[(EXAMPLES, TARGETS)] * 2)
    assert {name: first.values[name] for name in sorted(first.values)} == dict(sorted(second.values.items()))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_of_other_inputs_is_told_so() -> None:
    with pytest.raises(UserError, match="naswot"):
        scores(nn.Sequential(nn.Linear(5, 2), nn.ReLU()), Proxy.NASWOT)


# --- trials


def architectures(count: int) -> list[dict[str, Any]]:
    space, rng = describe_space("nasbench201", channels=4, cells=1), Rng(0)
    return [space.sample(rng).to_json() for _ in range(count)]


def params(listed: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"architectures": listed, "batchSize": 16, **more}


def test_a_trial_scores_a_list_in_its_order(make_context: MakeContext) -> None:
    listed = architectures(3)
    broken = {**listed[0], "edge_0_1": "nonesuch"}
    found = run_kind(make_context(kind="proxy", params=params([*listed, broken]))).payload
    assert [each is None for each in found["scores"]] == [False, False, False, True]
    assert "nonesuch" in found["reasons"]["3"]
    assert list(found["scores"][0]) == [proxy.value for proxy in Proxy]
    # Neither the place in the list nor its company matters.
    again = run_kind(make_context(kind="proxy", params=params(listed[::-1], proxies=["synflow", "jacov"]))).payload
    names = ("params", "flops", "synflow", "jacov")
    assert again["scores"][::-1] == [{name: each[name] for name in names} for each in found["scores"][:3]]


def test_an_interrupted_trial_goes_on(make_context: MakeContext, line: Any) -> None:
    listed = architectures(3)
    whole = run_kind(make_context(kind="proxy", params=params(listed, proxies=["naswot"]))).payload
    channel = line("release", 3)
    first = make_context(kind="proxy", params=params(listed, proxies=["naswot"]), channel=channel)
    with pytest.raises(TrialReleased):
        run_kind(first)
    name = next(message["name"] for message in channel.sent if message["type"] == "checkpoint")
    saved = first.directory / "checkpoints" / name
    state = make_context(resume=saved).load_checkpoint()
    assert state is not None
    assert 0 < len(state[1]["scores"]) < 3
    rest = make_context(kind="proxy", params=params(listed, proxies=["naswot"]), resume=saved)
    assert run_kind(rest).payload == whole


def test_a_trial_names_what_is_wrong_with_its_arguments(make_context: MakeContext) -> None:
    with pytest.raises(UserError, match=r"params.proxies.0.*'nonesuch'"):
        run_kind(make_context(kind="proxy", params=params(architectures(1), proxies=["nonesuch"])))


def test_a_network_of_tokens_gets_what_makes_sense(make_context: MakeContext, tmp_path: Path) -> None:
    texts = tmp_path / "train.tsv"
    texts.write_text(
        "".join(f"{label}\tsome words that are {label} {i}\n" for i in range(30) for label in ("up", "down"))
    )
    config = {"dataset": "text-file", "dataPath": str(tmp_path), "length": 8}
    args = {"layers": 2, "hidden": 8, "embedding_size": 4}
    space = describe_space("textnas", **args)
    found = run_kind(
        make_context(
            kind="proxy",
            model_space={"zoo": {"name": "textnas", "args": args}},
            evaluator={"name": "text-classification", "config": config},
            params=params([space.sample(Rng(0)).to_json()]),
        )
    ).payload
    assert set(found["leftOut"]) >= {"synflow", "jacov"}
    assert all(found["scores"][0][name] > 0 for name in ("params", "flops", "grad_norm", "snip"))


USER_CODE = """
from torch import nn
from archsearch.nn import LayerChoice

class Net(nn.Sequential):
    def __init__(self):
        wide = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
        super().__init__(LayerChoice({"wide": wide, "flat": nn.Linear(6, 2)}, label="body"))

def fit(model, context):
    raise AssertionError("nothing is trained")
"""


def test_a_users_network_is_scored_without_data(make_context: MakeContext, code: Callable[[str, str], str]) -> None:
    module = code("proxied", USER_CODE)
    space = {"python": {"class": f"{module}:Net", "inputShape": [6]}}
    asked = {"architectures": [{"body": "wide"}, {"body": "flat"}], "batchSize": 4}
    context = make_context(kind="proxy", model_space=space, evaluator={"python": f"{module}:fit"}, params=asked)
    found = run_kind(context).payload
    assert [each["params"] for each in found["scores"]] == [6 * 9 + 9 + 9 * 2 + 2, 6 * 2 + 2]
    assert found["scores"][0]["naswot"] is not None
    assert found["scores"][1]["naswot"] is None
    assert set(found["leftOut"]) == {"grad_norm", "snip", "zico", "naswot"}
    unknown = {"python": {"class": f"{module}:Net"}}
    with pytest.raises(UserError, match="inputShape"):
        run_kind(make_context(kind="proxy", model_space=unknown, evaluator={"python": f"{module}:fit"}, params=asked))


# --- tables


def write_tables(folder: Path) -> dict[str, Any]:
    """Four architectures, of which two have scores; the config of the evaluator tabular."""
    ops = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    np.savez(
        folder / "t.npz", ops=ops, candidates='[["a", "b"], ["a", "b"]]', acc=np.arange(4.0), flops=10 * np.arange(4.0)
    )
    values = np.array([[7.0, 0.5], [np.nan, 0.25]])
    np.savez(folder / "p.npz", values=values, columns=np.array(["nwot", "params"]), index=np.array([1, 3]))
    return {"table": str(folder / "t.npz"), "metric": "acc", "proxies": {"table": str(folder / "p.npz")}}


def test_a_table_answers_for_networks(make_context: MakeContext, tmp_path: Path) -> None:
    listed = [{"op0": "a", "op1": "b"}, {"op0": "b", "op1": "b"}, {"op0": "a", "op1": "a"}]
    asked = params(listed, proxies=["naswot"])
    context = make_context(kind="proxy", evaluator={"name": "tabular", "config": write_tables(tmp_path)}, params=asked)
    found = run_kind(context).payload
    assert found["scores"] == [
        {"params": 0.5, "flops": 10.0, "naswot": 7.0},
        {"params": 0.25, "flops": 30.0, "naswot": None},
        None,
    ]
    assert "no row" in found["reasons"]["2"]


def test_a_table_says_what_it_lacks(make_context: MakeContext, tmp_path: Path) -> None:
    config = write_tables(tmp_path)
    asked = params([{"op0": "a", "op1": "b"}], proxies=["zico"])
    with pytest.raises(UserError, match=r"'zico'.*nwot, params"):
        run_kind(make_context(kind="proxy", evaluator={"name": "tabular", "config": config}, params=asked))
    del config["proxies"]
    with pytest.raises(UserError, match=r"evaluator\.config\.proxies"):
        run_kind(make_context(kind="proxy", evaluator={"name": "tabular", "config": config}, params=asked))


@pytest.mark.skipif(not TABLES, reason="ARCHSEARCH_TEST_TABLES names no folder of tables")
def test_small_networks_rank_cells_as_the_tables_proxies_do() -> None:
    """60 cells with 8 channels, one cell a stage and a batch of digits, against the full networks on CIFAR-10."""
    table = Table.load(Path(TABLES) / "nasbench201_cifar10.npz", "nasbench201")
    with np.load(Path(TABLES) / "nasbench201_proxies_cifar10.npz") as loaded:
        index, values, columns = loaded["index"], loaded["values"], list(loaded["columns"])
    picked = np.random.Generator(np.random.PCG64(1)).permutation(len(index))[:60]
    evaluator = Classification.configure({"dataset": "digits"})
    assert isinstance(evaluator, Classification)
    sample = sample_of(evaluator.task(), Inputs((1, 8, 8)), batch_size=32, batches=1, seed=0)
    names = [Proxy.SYNFLOW, Proxy.NASWOT, Proxy.JACOV]
    found = []
    for place in picked:
        seed_everything(0)
        cell = table.architecture(int(index[place]))
        network = zoo.build("nasbench201", cell, channels=8, cells=1, input_channels=1)
        found.append(score(network, sample, names).values)
    for name, column, least in (("synflow", "synflow", 0.9), ("naswot", "nwot", 0.9), ("jacov", "jacov", 0.4)):
        ours = [-math.inf if each[name] is None else each[name] for each in found]
        assert rank_correlation(ours, values[picked, columns.index(column)]) > least, name
