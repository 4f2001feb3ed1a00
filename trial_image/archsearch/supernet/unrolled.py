"""The architecture gradient through one step of the weights (Liu et al. 2019, equations 5 to 8). Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archsearch.supernet.distributed import average_found

SMALL = 0.01


@dataclass(frozen=True)
class VirtualStep:
    """The step of SGD that is looked through: w' = w - rate * (g + decay * w + momentum * buffer).

    Attributes:
        buffers: of the momentum, one a weight; None before the first step.
    """

    rate: float
    momentum: float
    decay: float
    buffers: Sequence[Tensor | None]
    nesterov: bool = False

    def apply(self, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Take it. Weights without a gradient stay, as SGD leaves them."""
        for weight, gradient, buffer in zip(weights, gradients, self.buffers, strict=True):
            if gradient is None:
                continue
            change = gradient + self.decay * weight
            moved = change if buffer is None else change + self.momentum * buffer
            weight.sub_(self.rate * (change + self.momentum * moved if self.nesterov else moved))

    @property
    def reach(self) -> float:
        """How far w' moves for a unit of gradient."""
        return self.rate * (1 + self.momentum if self.nesterov else 1.0)


def unrolled_gradients(
    train_loss: Callable[[], Tensor],
    held_out_loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    step: VirtualStep,
) -> list[Tensor]:
    """The gradient of L_val(w'(alpha), alpha) with respect to alpha, w' one virtual step from w.

    Its second-order part, - rate * d²L_train/(dalpha dw) * dL_val/dw', is the finite difference of equation 8 with
    epsilon = 0.01 / |dL_val/dw'|. The weights end with the bits that they began with.

    Of several ranks all step virtually by the gradient of the whole batch, and look along that of the whole held-out
    one: the mean of what they return is then the gradient of the whole batches.

    Args:
        train_loss, held_out_loss: compute the losses anew, at the present weights and alphas; random numbers that they
            draw and statistics that they move are the caller's business.
        weights: leaf tensors, changed in place on the way.
        alphas: leaf tensors.
    """
    before = [weight.detach().clone() for weight in weights]
    try:
        gradients = torch.autograd.grad(train_loss(), weights, allow_unused=True)
        average_found(gradients)
        with torch.no_grad():
            step.apply(weights, gradients)
        found = torch.autograd.grad(held_out_loss(), [*alphas, *weights], allow_unused=True)
        direct, vector = found[: len(alphas)], found[len(alphas) :]
        average_found(vector)
        norm = float(torch.stack([v.norm() for v in vector if v is not None] or [torch.zeros(())]).norm())
        if norm == 0:
            return _filled(direct, alphas)
        differences = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, own, v in zip(weights, before, vector, strict=True):
                    weight.copy_(own if v is None else own + sign * SMALL / norm * v)
            differences.append(_filled(torch.autograd.grad(train_loss(), alphas, allow_unused=True), alphas))
    finally:
        with torch.no_grad():
            for weight, own in zip(weights, before, strict=True):
                weight.copy_(own)
    scale = step.reach * norm / (2 * SMALL)
    return [d - scale * (above - below) for d, above, below in zip(_filled(direct, alphas), *differences, strict=True)]


def _filled(gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]
