"""Steps on the shared weights: SGD, its schedule, clipping, mixed precision. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.evaluate.optimization import load_slots, slots_of
from archsearch.spec.base import JsonObject
from archsearch.supernet.distributed import average_gradients

if TYPE_CHECKING:
    from archsearch.supernet.options import SupernetConfig


def rate(config: SupernetConfig, done: int, total: int) -> float:
    """The learning rate of a step, of `total` in all: cosines (Loshchilov & Hutter 2017), a line, or constant."""
    highest, lowest = config.learning_rate, config.minimum_learning_rate
    if config.schedule == "constant":
        return highest
    part = done / max(1, total)
    if config.schedule == "restarts":
        epoch, length = part * config.epochs, float(config.first_cycle)
        while epoch >= length:
            epoch, length = epoch - length, length * config.cycle_factor
        part = epoch / length
    left = 1 - part if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))
    return lowest + (highest - lowest) * left


class WeightOptimizer:
    """SGD on shared weights. Parameters without a gradient (of paths that took no part) are left alone.

    Args:
        total: steps of the whole training, for the schedule.
        device: of the parameters.

    Raises:
        UserError: there is nothing to train.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: SupernetConfig, total: int, device: str) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        if not self.parameters:
            raise UserError(
                "the supernet has no parameters to train: take another space, or a strategy without weights"
            )
        self.config, self.total = config, total
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov and config.momentum > 0,
            fused=True,
        )
        self.scaler: Any = torch.amp.GradScaler(device) if config.precision == "float16" else None

    def zero(self) -> None:
        """Forget all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, loss: Tensor, done: int) -> None:
        """Change the weights along the gradient of `loss`, as step number `done`."""
        self.zero()
        self.backward(loss)
        self.apply(done)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.scaled(loss).backward()  # type: ignore[no-untyped-call]

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as gradients are taken of it: with float16 they would else underflow. `apply` expects them so."""
        return loss if self.scaler is None else cast(Tensor, self.scaler.scale(loss))

    def unscaled(self, gradients: Iterable[Tensor | None]) -> list[Tensor | None]:
        """Gradients of a `scaled` loss in others than the weights, at their size; where one of them overflowed, which
        the scaler answers with a smaller scale, all are 0."""
        found = list(gradients)
        if self.scaler is None:
            return found
        there = [each for each in found if each is not None]
        factor = 1 / self.scaler.get_scale() if all(bool(each.isfinite().all()) for each in there) else 0.0
        return [None if each is None else each.nan_to_num(0.0, 0.0, 0.0) * factor for each in found]

    def apply(self, done: int) -> None:
        """Clip the gradients that are there and step, at the schedule's rate for step number `done`."""
        average_gradients(self.parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, done, self.total)
        if self.scaler is not None and self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], self.config.clip_norm)
        if self.config.momentum:
            self._begin_momenta()
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _begin_momenta(self) -> None:
        """The fused kernel takes either no parameter's first step or every one's; from zero a step is the first one."""
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self.optimizer.state:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def state(self) -> tuple[dict[str, Tensor], JsonObject]:
        """For a checkpoint."""
        tensors, scalars = slots_of(self.optimizer)
        return tensors, {"scalars": scalars, "scaler": self.scaler.state_dict() if self.scaler is not None else {}}

    def restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        """Go on from `state`."""
        load_slots(self.optimizer, tensors, state["scalars"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
