"""Mixtures: their values, statistics and gradients are those of the weighted sum written out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.nn import LayerChoice
from archsearch.space import Rng
from archsearch.supernet.compiling import Compiled
from archsearch.supernet.mixing import Activations, Normalised, likeness, mix
from archsearch.supernet.network import Mixture, Supernet
from archsearch.supernet.norms import without_affine
from archsearch.zoo.nasbench201 import ConvBlock, Zero


def written_out(modules: Sequence[nn.Module], x: Tensor, weights: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for weight, module in zip(weights, modules, strict=True):
        total = total + weight * module(x)
    return total


def edge(affine: bool, channels: int = 4) -> list[nn.Module]:
    """Candidates of all forms that are computed in their own way, and some that are not."""
    made: list[nn.Module] = [
        Zero(),
        nn.Identity(),
        ConvBlock(channels, channels, 1),
        ConvBlock(channels, channels, 3),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        Normalised(nn.MaxPool2d(3, 1, 1)),
        nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Tanh()),
        nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels, momentum=None)),
    ]
    for norm in (m for module in made for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    if not affine:
        without_affine(made)
    return made


class Edges(nn.Module):
    """Three edges: two read the input, one the sum of the first."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(edge(affine)) for _ in range(3))

    def forward(self, x: Tensor, weights: Tensor, activations: Activations | None) -> Tensor:
        def one(i: int, y: Tensor) -> Tensor:
            modules: Any = list(self.edges[i])
            if activations is None:
                return written_out(modules, y, weights[i])
            found: Tensor = mix(modules, (y,), {}, weights[i], activations)
            return found

        hidden = one(0, x)
        return one(1, x) + one(2, torch.tanh(hidden))


def results(
    net: Edges, x: Tensor, weights: Tensor, activations: Activations | None, precision: torch.dtype | None
) -> dict[str, Tensor]:
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
        out = net(x, weights, activations)
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        out.float().square().mean() if precision else out.square().mean(), [x, weights, *named.values()]
    )
    found = dict(zip(["x", "weights", *named], gradients, strict=True))
    return {"out": out, **found, **{f"buffer {n}": b.double() for n, b in net.named_buffers()}}


def compared(
    affine: bool, training: bool, dtype: torch.dtype, precision: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Results of the sum written out in `dtype`, and of the mixture."""
    torch.manual_seed(3)
    plain = Edges(affine).to(dtype).train(training)
    fast = copy.deepcopy(plain)
    x, weights = torch.randn(5, 4, 6, 7, dtype=dtype), torch.randn(3, 8, dtype=dtype).softmax(1)
    return results(plain, x, weights, None, None), results(fast, x, weights, Activations(), precision)


def error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-3))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_a_mixture_is_the_sum_written_out(affine: bool, training: bool, dtype: torch.dtype, tolerance: float) -> None:
    expected, found = compared(affine, training, dtype, None)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert error(found[name], value) < tolerance, name


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_under_autocast_a_mixture_is_as_exact_as_the_sum_written_out(training: bool) -> None:
    exact, found = compared(True, training, torch.float32, torch.bfloat16)
    torch.manual_seed(3)
    plain = Edges(True).train(training)
    x, weights = torch.randn(5, 4, 6, 7), torch.randn(3, 8).softmax(1)
    written = results(plain, x, weights, None, torch.bfloat16)

    def mean(of: dict[str, Tensor]) -> float:
        return sum(error(of[name], value) for name, value in exact.items()) / len(exact)

    assert 1e-4 < mean(found) < 1.5 * mean(written)


def test_weights_that_need_no_gradient_change_no_other_gradient() -> None:
    torch.manual_seed(4)
    net = Edges(True)
    twin = copy.deepcopy(net)
    x, weights = torch.randn(3, 4, 5, 5), torch.randn(3, 8).softmax(1)
    net(x, weights.clone().requires_grad_(), Activations()).square().mean().backward()
    twin(x, weights, Activations()).square().mean().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-8)


class Counting(nn.AvgPool2d):
    """A pool of a class of one's own, which may do anything."""


def test_pools_of_one_tensor_are_computed_once_and_others_are_not_taken_for_them() -> None:
    x = torch.randn(2, 3, 6, 6)
    held = Activations()
    calls = []

    def pool(y: Tensor) -> Tensor:
        calls.append(y)
        return nn.functional.avg_pool2d(y, 3, 1, 1)

    kind = likeness(nn.AvgPool2d(3, 1, 1))
    assert held.of(x, kind, pool) is held.of(x, likeness(nn.AvgPool2d(3, 1, 1)), pool)
    assert len(calls) == 1
    x.add_(1)  # another state of the same tensor
    held.of(x, kind, pool)
    assert len(calls) == 2
    with torch.no_grad():  # a graph of its own
        held.of(x, kind, pool)
    assert len(calls) == 3
    held.clear()
    held.of(x, kind, pool)
    assert len(calls) == 4
    others = [nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(5, 1, 2), nn.MaxPool2d(3, 1, 1)]
    assert len({kind, likeness(Normalised(nn.AvgPool2d(3, 1, 1))), *map(likeness, others)}) == 5
    assert likeness(Counting(3, 1, 1)) is None and likeness(nn.Identity()) is None
    hooked = nn.AvgPool2d(3, 1, 1)
    hooked.register_forward_hook(lambda *_: None)
    assert likeness(hooked) is None


def test_only_the_last_tensors_are_held() -> None:
    held = Activations(size=2)
    tensors = [torch.randn(2) for _ in range(4)]
    for x in tensors:
        held.relu(x)
    assert len(held._held) == 2
    assert all(torch.equal(held.relu(x), x.relu()) for x in tensors)


def test_candidates_that_give_zeros_are_not_computed_and_a_sum_without_weights_is_plain() -> None:
    x = torch.randn(2, 3, 4, 4)

    class Untouched(Zero):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("computed")

    both = [Untouched(), nn.Identity()]
    assert torch.equal(mix(both, (x,), {}, torch.tensor([0.9, 0.1])), x * 0.1)
    assert torch.equal(mix([nn.Identity(), nn.ReLU()], (x,), {}, None), x + x.relu())
    assert torch.equal(mix([Zero()], (x,), {}, torch.tensor([1.0])), torch.zeros_like(x))


class Edge(nn.Module):
    """One choice, small enough for a test to compile it."""

    def __init__(self) -> None:
        super().__init__()
        names = ("skip_connect", "conv", "avg_pool_3x3")
        made = (nn.Identity(), ConvBlock(3, 3, 1), nn.AvgPool2d(3, 1, 1))
        self.edge = LayerChoice(dict(zip(names, made, strict=True)), label="edge")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.edge(x)
        return out


def supernet() -> Supernet:
    torch.manual_seed(6)
    return Supernet(Edge(), normalise_pools=True)


def follow(net: Supernet, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    weights = {name: torch.randn(3).softmax(0).requires_grad_() for name in net.choices}
    net.mix({name: Mixture((0, 1, 2), weight) for name, weight in weights.items()})
    return weights


def test_a_compiled_mixture_is_compiled_once_and_gives_the_same() -> None:
    plain, fast = supernet(), supernet()
    compiled: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    run = Compiled(fast, backend=backend)
    x = torch.randn(4, 3, 8, 8)
    for seed in range(3):  # other weights, and other tensors for them, in each step
        own, other = follow(plain, seed), follow(fast, seed)
        one, two = plain.model(x), run(x)
        assert torch.allclose(one, two, atol=1e-5)
        gradients = torch.autograd.grad(one.square().sum(), list(own.values()))
        found = torch.autograd.grad(two.square().sum(), list(other.values()))
        assert all(torch.allclose(f, g, rtol=1e-3, atol=1e-4) for f, g in zip(found, gradients, strict=True))
    assert len(compiled) == 1
    assert all(torch.allclose(a, b) for a, b in zip(plain.model.buffers(), fast.model.buffers(), strict=True))
    path = fast.space.sample(Rng(0))
    fast.take(path)
    run(x)
    with torch.no_grad():
        follow(fast, 0)
        run(x)
    assert len(compiled) == 1  # single paths, and what needs no gradients, run as they are


def test_where_there_is_no_compiler_a_warning_says_so_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    net = supernet()

    def missing(graph: Any, _: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    run = Compiled(net, backend=missing)
    x = torch.randn(4, 3, 8, 8)
    for seed in range(2):
        weights = follow(net, seed)
        assert all(g is not None for g in torch.autograd.grad(run(x).sum(), list(weights.values())))
    assert not run.works
    (record,) = [record for record in caplog.records if record.name.startswith("archsearch")]
    assert "no C++ compiler was found" in record.getMessage()


def test_a_fault_of_the_network_is_no_fault_of_the_compiler() -> None:
    net = supernet()
    follow(net, 0)
    with pytest.raises(RuntimeError, match="channels"):
        Compiled(net, backend="eager")(torch.randn(4, 5, 8, 8))
