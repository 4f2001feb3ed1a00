"""DARTS: its gradients, of both orders, are the closed forms'; what it cannot mix it refuses; resumed to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.edge_cells import EdgeNet
from support.supernets import equal, final, loop_of, resumed, tiny, trainer_of
from torch import Tensor, nn
from torch.func import functional_call

from archsearch.errors import BadMetric, UserError
from archsearch.nn import InputChoice, LayerChoice, ValueChoice, describe
from archsearch.space import Categorical, SearchSpace, Subset
from archsearch.supernet.network import Mixture, Supernet
from archsearch.supernet.parameters import ArchitectureParameters, derive, mixture_weights
from archsearch.supernet.unrolled import VirtualStep, unrolled_gradients
from archsearch_strategies.algorithms.darts import DartsConfig, DartsTrainer


class Smooth(nn.Module):
    """Two choices and no kinks: finite differences are exact up to third derivatives."""

    def __init__(self) -> None:
        super().__init__()
        for i in (1, 2):
            ops = {
                "line": nn.Linear(5, 5),
                "wave": nn.Sequential(nn.Linear(5, 5), nn.Tanh()),
                "skip_connect": nn.Identity(),
            }
            self.add_module(f"choice{i}", LayerChoice(ops, label=f"choice{i}"))
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.choice2(torch.tanh(self.choice1(x)))))  # type: ignore[operator]
        return out


class Problem:
    """A supernet in float64 and two batches."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        self.supernet = Supernet(Smooth().double())
        self.alphas = ArchitectureParameters(self.supernet.space, deviation=0.5).double()
        self.batches = [(torch.randn(16, 5).double(), torch.randn(16, 1).double()) for _ in range(2)]
        self.weights = list(self.supernet.model.parameters())
        self.parameters = list(self.alphas.parameters())

    def loss(self, batch: int, weights: dict[str, Tensor] | None = None) -> Tensor:
        names = self.alphas.choices
        self.supernet.mix({name: Mixture((0, 1, 2), mixture_weights(self.alphas, name)) for name in names})
        x, y = self.batches[batch]
        model = self.supernet.model
        found = model(x) if weights is None else functional_call(model, weights, (x,))
        return nn.functional.mse_loss(found, y)

    def exact(self, step: VirtualStep) -> tuple[Tensor, ...]:
        """Autograd through the step."""
        gradients = torch.autograd.grad(self.loss(0), self.weights, create_graph=True)
        moved = {}
        named = self.supernet.model.named_parameters()
        for (name, w), g, buffer in zip(named, gradients, step.buffers, strict=True):
            change = g + step.decay * w
            total = change if buffer is None else change + step.momentum * buffer
            moved[name] = w - step.rate * (change + step.momentum * total if step.nesterov else total)
        return torch.autograd.grad(self.loss(1, moved), self.parameters)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("moving", [False, True])
def test_the_second_order_gradient_is_the_exact_one_through_the_weights_step(moving: bool, nesterov: bool) -> None:
    problem = Problem()
    buffers = [torch.randn_like(w) * 0.1 if moving else None for w in problem.weights]
    step = VirtualStep(0.2, 0.9, 3e-3, buffers, nesterov)
    before = [w.detach().clone() for w in problem.weights]
    found = unrolled_gradients(
        lambda: problem.loss(0), lambda: problem.loss(1), problem.weights, problem.parameters, step
    )
    assert all(torch.equal(w, own) for w, own in zip(problem.weights, before, strict=True))
    expected = torch.cat(problem.exact(step))
    first = torch.cat(torch.autograd.grad(problem.loss(1), problem.parameters))
    error = float((torch.cat(found) - expected).norm() / expected.norm())
    assert error < 1e-4
    assert float((first - expected).norm() / expected.norm()) > 0.05  # first order is another gradient


class SmoothImages(nn.Module):
    """`Smooth` on the 8 x 8 images of the digits, with a batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 5, 8), nn.BatchNorm2d(5), nn.Flatten())
        self.body = Smooth()
        self.body.head = nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.stem(x))
        return out


def test_the_trainers_second_order_step_takes_its_own_rate_momentum_and_decay(tmp_path: Path) -> None:
    rates = {"learningRate": 0.1, "minimumLearningRate": 0.1, "weightDecay": 0.1}
    trainer: Any = trainer_of(DartsTrainer, {"order": 2, **rates}, tmp_path, build=SmoothImages)
    trainer.step(0, 0)
    trainer.bench.step = 1
    model, bench = trainer.supernet.model, trainer.bench
    batch, own = bench.architecture_batch(), bench.weight_batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(trainer.alphas.parameters())
    found = torch.cat(trainer.architecture_gradients(batch, parameters))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # statistics as well

    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    trainer.follow()
    gradients = torch.autograd.grad(bench.loss(model, own), list(named.values()), create_graph=True)
    moved = {
        name: p - 0.1 * (g + 0.1 * p + 0.9 * trainer.weights.optimizer.state[p]["momentum_buffer"])
        for (name, p), g in zip(named.items(), gradients, strict=True)
    }
    loss = bench.loss(lambda x: functional_call(model, moved, (x,)), batch)
    expected = torch.cat(torch.autograd.grad(loss, parameters))
    assert float((found - expected).norm() / expected.norm()) < 1e-3  # in float32
    trainer.config = trainer.config.model_copy(update={"order": 1})
    first = torch.cat(trainer.architecture_gradients(batch, parameters))
    assert float((first - expected).norm() / expected.norm()) > 0.01


def test_the_first_order_gradient_is_that_of_the_held_out_loss_and_statistics_follow_training(tmp_path: Path) -> None:
    trainer: Any = trainer_of(DartsTrainer, {}, tmp_path)
    batch = trainer.bench.architecture_batch()
    parameters = list(trainer.alphas.parameters())
    found = trainer.architecture_gradients(batch, parameters)
    trainer.follow()
    loss = trainer.bench.loss(trainer.supernet.model, batch)
    loss.backward()
    assert all(torch.allclose(f, p.grad, rtol=1e-4, atol=1e-7) for f, p in zip(found, parameters, strict=True))


@pytest.mark.parametrize(
    ("build", "options"),
    [(tiny, {}), (EdgeNet, {"order": 2}), (tiny, {"auxiliarySkip": True, "warmupEpochs": 1})],
    ids=["first", "second-on-cells", "auxiliary"],
)
def test_a_search_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, build: type[nn.Module], options: dict[str, Any]
) -> None:
    undisturbed, found = final(trainer_of(DartsTrainer, options, tmp_path / "whole", build=build))
    again, also = resumed(DartsTrainer, options, tmp_path, at=4, build=build)
    assert equal(undisturbed, again)
    assert found == also


def test_weights_alone_are_trained_while_it_warms_up(tmp_path: Path) -> None:
    trainer: Any = trainer_of(DartsTrainer, {"warmupEpochs": 1}, tmp_path)
    before = trainer.alphas.history()
    trainer.step(0, 0)
    assert trainer.alphas.history() == before
    trainer.step(1, 0)
    assert trainer.alphas.history() != before
    with pytest.raises(ValueError, match="warmupEpochs"):
        DartsConfig.model_validate({"epochs": 2, "warmupEpochs": 2})


def test_auxiliary_skips_fade_and_are_no_part_of_the_shared_weights(tmp_path: Path) -> None:
    trainer: Any = trainer_of(DartsTrainer, {"auxiliarySkip": True}, tmp_path, build=EdgeNet)
    plain: Any = trainer_of(DartsTrainer, {}, tmp_path / "plain", build=EdgeNet)
    plain.supernet.model.load_state_dict(trainer.supernet.model.state_dict())
    plain.alphas.load_state_dict(trainer.alphas.state_dict())
    x = trainer.bench.architecture_batch().inputs

    def outputs() -> tuple[Tensor, Tensor]:
        for each in (trainer, plain):
            each.supernet.model.eval()
            each.follow()
        with torch.no_grad():
            return trainer.supernet.model(x), plain.supernet.model(x)

    assert trainer.auxiliary_weight() == 1.0
    one, other = outputs()
    assert not torch.allclose(one, other, atol=1e-3)
    trainer.bench.epoch = 1
    assert trainer.auxiliary_weight() == 0.5
    trainer.bench.epoch = 2
    assert trainer.auxiliary_weight() == 0.0
    assert torch.equal(*outputs())
    place = trainer.supernet.layers["normal/op_2_0"][0]
    trainer.bench.epoch = 0
    value = torch.randn(2, 4, 8, 8)
    mixed = place(value)
    trainer.bench.epoch = 2
    assert torch.allclose(mixed - value, place(value), atol=1e-6)  # the auxiliary of an identity is one
    names = trainer.bench.shared()[0]
    assert any(name.startswith("@auxiliary.") for name in names)  # those of the reduction cell have weights
    assert {n for n in names if not n.startswith("@")} == set(plain.supernet.model.state_dict())


def test_in_search_cells_are_without_affine_normalization_and_pools_are_normalised(tmp_path: Path) -> None:
    from archsearch.supernet.norms import without_search_affine
    from archsearch.zoo.darts import DARTS

    model = DARTS(channels=4, cells=3, nodes=1, input_channels=1)
    without_search_affine(model)
    free = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad}
    assert free == {"stem.0.1"}
    trainer: Any = trainer_of(DartsTrainer, {}, tmp_path, build=EdgeNet)
    place = trainer.supernet.layers["normal/op_2_0"][0]
    trainer.supernet.mix({"normal/op_2_0": Mixture((2,))})
    out = place(3 + 5 * torch.randn(4, 4, 6, 6))
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(out.var((0, 2, 3)), torch.ones(4), atol=0.05)
    bare: Any = trainer_of(DartsTrainer, {"normalisePools": False}, tmp_path / "bare", build=EdgeNet)
    bare.supernet.mix({"normal/op_2_0": Mixture((2,))})
    assert bare.supernet.layers["normal/op_2_0"][0](3 + torch.rand(4, 4, 6, 6)).min() > 3


def test_a_node_of_a_cell_sums_all_its_edges_in_search(tmp_path: Path) -> None:
    trainer: Any = trainer_of(DartsTrainer, {}, tmp_path, build=lambda: EdgeNet(nodes=1))
    trainer.follow()
    trainer.supernet.model.eval()
    cell = trainer.supernet.model.cells[0]
    x, y = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)
    assert torch.allclose(cell(x, y), cell.ops["2_0"](x) + cell.ops["2_1"](y), atol=1e-6)


class Inputs(nn.Module):
    """One input choice of three, reduced as told."""

    def __init__(self, chosen: int | None, reduction: Any) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.pick = InputChoice(3, chosen, reduction, label="pick")
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.head(self.pick([h, h.tanh(), h.relu()]).mean((2, 3)))
        return out


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("chosen", [1, 2, None])
def test_a_mixture_of_inputs_has_the_scale_of_as_many_as_are_chosen(chosen: int | None, reduction: str) -> None:
    supernet = Supernet(Inputs(chosen, reduction))
    alphas = ArchitectureParameters(supernet.space, deviation=1.0)
    with torch.no_grad():
        alphas["pick"].copy_(torch.tensor([30.0, 30.0, -30.0]) if chosen != 1 else torch.tensor([30.0, -30.0, -30.0]))
    supernet.mix({"pick": Mixture((0, 1, 2), mixture_weights(alphas, "pick"))})
    x = torch.randn(2, 1, 8, 8)
    mixed = supernet.model(x)
    decided = derive(supernet.space, alphas.history())
    assert decided["pick"] == ((0,) if chosen == 1 else (0, 1))
    supernet.take(decided)
    assert torch.allclose(mixed, supernet.model(x), atol=1e-5)


@pytest.mark.parametrize("chosen", [2, None])
def test_input_choices_of_several_are_searched(tmp_path: Path, chosen: int | None) -> None:
    _, (found,) = final(trainer_of(DartsTrainer, {"epochs": 1}, tmp_path, build=lambda: Inputs(chosen, "sum")))
    assert chosen is None or len(found.architecture["pick"]) == chosen


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"thin": nn.Conv2d(1, 4, 1), "thick": nn.Conv2d(1, 5, 1)}, label="op")
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.op(x).mean((2, 3)))
        return out


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"lstm": nn.LSTM(8, 8, batch_first=True), "same": nn.Identity()}, label="op")

    def forward(self, x: Tensor) -> Any:
        return self.op(x[:, 0])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Wide, r"'op'.*'thick' gives the shape \(2, 5, 8, 8\).*'thin' \(2, 4, 8, 8\)"),
        (Two, "'op'.*'lstm' gives a tuple"),
        (lambda: Inputs(2, "concat"), "'pick'.*concatenates"),
        (lambda: Inputs(None, "none"), "'pick'.*lists"),
    ],
    ids=["shapes", "tuple", "concat", "none"],
)
def test_what_cannot_be_mixed_is_refused_before_the_first_step(tmp_path: Path, build: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        trainer_of(DartsTrainer, {}, tmp_path, build=build)


def test_spaces_and_options_that_it_cannot_take() -> None:
    model = nn.Sequential(nn.Dropout())
    model.rate = ValueChoice([0.1, 0.2], label="rate")  # type: ignore[assignment]
    space = SearchSpace((Categorical("op", ("a", "b")), Subset("inputs", (0, 1, 2), None)))
    assert DartsTrainer.check(space, DartsConfig()) == []
    (problem,) = DartsTrainer.check(space, DartsConfig(order=2, precision="bfloat16"))
    assert "order 2" in problem
    assert "bfloat16" in problem
    values = describe(model)
    (problem,) = DartsTrainer.check(values, DartsConfig())
    assert "'rate'" in problem
    assert "values" in problem


def test_a_loss_that_is_not_finite_fails_the_trial_and_says_why(tmp_path: Path) -> None:
    def broken() -> nn.Module:
        model = tiny()
        nn.init.constant_(model.get_parameter("classifier.bias"), torch.nan)
        return model

    trainer = trainer_of(DartsTrainer, {}, tmp_path, build=broken)
    with pytest.raises(BadMetric, match="diverged; lower learningRate"):
        loop_of(trainer).run()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    (tensors, state), _ = final(trainer_of(DartsTrainer, {"epochs": 1}, tmp_path / "one"))
    with pytest.raises(UserError, match="no supernet of EdgeNet"):
        trainer_of(DartsTrainer, {}, tmp_path / "two", build=EdgeNet, source=(tensors, state))


def test_penalties_pull_towards_what_costs_less(tmp_path: Path) -> None:
    heavy = {"penalties": [{"metric": "params", "weight": 100.0}], "architectureLearningRate": 0.1}
    _, (found,) = final(trainer_of(DartsTrainer, heavy, tmp_path))
    assert not any(str(op).startswith("nor_conv") for op in found.architecture.values())


def test_a_prior_is_what_a_search_begins_with(tmp_path: Path) -> None:
    prior = {"edge_0_1": {"nor_conv_3x3": 0.7, "skip_connect": 0.3}}
    trainer: Any = trainer_of(DartsTrainer, {"priors": prior}, tmp_path / "prior")
    begun = trainer.alphas.history()
    assert begun["edge_0_1"] == pytest.approx([0, 0.3, 0, 0.7, 0], abs=2e-3)
    assert begun["edge_0_2"] == pytest.approx([0.2] * 5, abs=2e-3)
    for wrong, words in (
        ({"edge_9": {"none": 1.0}}, "choice 'edge_9'"),
        ({"edge_0_1": {"conv": 1.0}}, "names 'conv'"),
        ({"edge_0_1": {"none": 0.4}}, "no distribution"),
    ):
        with pytest.raises(UserError, match=words):
            trainer_of(DartsTrainer, {"priors": wrong}, tmp_path / "wrong")
