"""Batch normalizations in the layout that is fast: the same numbers, gradients and statistics, laid out as before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.supernet.batchnorm import LaidOutBatchNorm2d, PartBatchNorm2d, lay_out, normalised

LAST = torch.channels_last


def laid_out(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


def pair(channels: int, **options: Any) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """A normalization as PyTorch has it, and one that is laid out."""
    plain = nn.BatchNorm2d(channels, **options)
    if plain.affine:
        nn.init.uniform_(plain.weight, 0.5, 1.5)
        nn.init.uniform_(plain.bias, -0.5, 0.5)
    mine = copy.deepcopy(plain)
    lay_out(mine)
    assert type(mine) is LaidOutBatchNorm2d
    return plain, mine


def run(norm: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm(x)
    loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    return out, list(torch.autograd.grad(loss, [x, *norm.parameters()]))


@pytest.mark.parametrize("channels", [3, 8, 16, 24])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}], ids=str
)
def test_it_gives_what_the_plain_one_gives(channels: int, training: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain, mine = pair(channels, **options)
    plain.train(training)
    mine.train(training)
    for _ in range(2):
        x = torch.randn(8, channels, 16, 16).contiguous(memory_format=LAST)
        (expected, gradients), (found, own) = run(plain, x), run(mine, x)
        assert laid_out(found)
        assert torch.allclose(found, expected, atol=1e-5)
        for one, other in zip(own, gradients, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    state = mine.state_dict()
    assert state.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.allclose(state[name], value, atol=1e-6), name


def test_the_kernel_is_given_narrow_images_and_their_gradients_laid_out_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plainly: list[bool] = []
    kernel = nn.functional.batch_norm

    def spied(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        plainly.append(x.is_contiguous())
        out = kernel(x, *args, **kwargs)
        out.register_hook(lambda gradient: plainly.append(gradient.is_contiguous()))
        return out

    monkeypatch.setattr(nn.functional, "batch_norm", spied)
    for channels, expected in ((4, [True, True]), (16, [False, False])):
        x = torch.randn(8, channels, 16, 16).contiguous(memory_format=LAST).requires_grad_()
        out = normalised(x, None)
        out.backward(torch.randn_like(out))  # type: ignore[no-untyped-call]
        assert laid_out(out)
        assert plainly == expected
        plainly.clear()


def test_what_it_cannot_take_it_refuses_as_the_plain_one_does() -> None:
    plain, mine = pair(4)
    for x in (torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4), torch.randn(2, 4)):
        with pytest.raises((RuntimeError, ValueError)) as expected:
            plain(x)
        with pytest.raises(type(expected.value)) as found:
            mine(x)
        assert str(found.value) == str(expected.value)


def test_second_derivatives_are_the_plain_ones() -> None:
    torch.manual_seed(0)
    plain, mine = pair(4)
    found = []
    for norm in (plain.double(), mine.double(), mine.float()):
        kind = norm.weight.dtype
        x = torch.linspace(-2, 3, 8 * 4 * 16 * 16, dtype=kind).view(8, 4, 16, 16).sin().contiguous(memory_format=LAST)
        x.requires_grad_()
        (first,) = torch.autograd.grad(norm(x).pow(3).mean(), x, create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum() * 1e6, norm.weight)[0].double())
    assert torch.allclose(found[1], found[0])
    assert torch.allclose(found[2], found[0], rtol=1e-3)


def test_a_class_of_ones_own_is_left_alone_and_parts_take_parts() -> None:
    class Own(nn.BatchNorm2d):
        """May do anything."""

    model = nn.Sequential(Own(4), nn.BatchNorm2d(4), nn.BatchNorm1d(4))
    lay_out(model)
    assert [type(module) for module in model] == [Own, LaidOutBatchNorm2d, nn.BatchNorm1d]
    norm = nn.BatchNorm2d(8)
    norm.__class__ = PartBatchNorm2d
    x = torch.randn(8, 2, 16, 16).contiguous(memory_format=LAST)
    assert torch.allclose(norm(x), nn.BatchNorm2d(2)(x), atol=1e-5)
    assert norm.running_mean is not None and norm.running_mean[:2].ne(0).all() and norm.running_mean[2:].eq(0).all()
    with pytest.raises(RuntimeError):
        norm(torch.randn(2, 9, 4, 4))
