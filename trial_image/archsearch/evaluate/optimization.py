"""Optimizers, learning rates, mixed precision and clipping: one step of training. Imports torch."""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from archsearch.errors import UserError
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.evaluate.options import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of `config` for all parameters that take gradients.

    Raises:
        UserError: there are none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError(
            "the network has no parameters to train: choose an evaluator that does not train, or another space"
        )
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, momentum=config.momentum, weight_decay=decay, alpha=0.9)
    # One fused kernel a step: with tiny layers the loop over parameters would cost more than the arithmetic.
    fused = all(parameter.is_floating_point() for parameter in parameters)
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov, fused=fused
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, betas=(config.momentum, 0.999), weight_decay=decay, fused=fused)


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """The rate of a step counted from the start, with `steps` an epoch.

    Linear warm-up (Goyal et al. 2017) over ``warmupEpochs``, then the schedule over the rest: cosine without restarts
    (Loshchilov & Hutter 2017), linear, step by whole epochs, or constant.
    """
    highest, lowest = config.learning_rate, config.minimum_learning_rate
    warmup = config.warmup_epochs * steps
    if step < warmup:
        return highest * min(1.0, (step + 1) / warmup)
    if config.schedule == "constant":
        return highest
    if config.schedule == "step":
        return float(highest * config.step_factor ** (step // steps // config.step_epochs))
    done = (step - warmup) / (config.epochs * steps - warmup)
    part = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return lowest + (highest - lowest) * part


class Stepper:
    """From a loss to changed weights: scales it for float16, clips gradients, steps the optimizer."""

    def __init__(self, model: nn.Module, config: TrainingConfig, device: str) -> None:
        if config.precision == "float16" and device == "cpu":
            raise UserError("precision float16 needs a GPU, and here is none: use bfloat16 or float32")
        self.config, self.device = config, device
        self.optimizer = make_optimizer(model, config)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.scaler = torch.amp.GradScaler(device) if config.precision == "float16" else None

    def autocast(self) -> AbstractContextManager[object]:
        """The network's forward pass belongs in it, losses and measures do not."""
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float16
        return torch.autocast(self.device, dtype=kind)

    def step(self, loss: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            self._clip()
            self.optimizer.step()
            return
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _clip(self) -> None:
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)

    def state(self) -> tuple[dict[str, Tensor], JsonObject]:
        """Tensors (live ones) and JSON of the optimizer and the loss scale."""
        tensors, scalars = slots_of(self.optimizer)
        scaler = self.scaler.state_dict() if self.scaler is not None else {}
        return tensors, {"scalars": scalars, "scaler": scaler}

    def restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        load_slots(self.optimizer, tensors, state["scalars"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def slots_of(optimizer: torch.optim.Optimizer, prefix: str = "") -> tuple[dict[str, Tensor], JsonObject]:
    """What an optimizer remembers of its parameters: tensors (live ones, behind the prefix) and scalars, named
    INDEX.KEY."""
    tensors: dict[str, Tensor] = {}
    scalars: JsonObject = {}
    parameters = (each for group in optimizer.param_groups for each in group["params"])
    for index, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}{index}.{key}"] = value
            else:
                scalars[f"{index}.{key}"] = value
    return tensors, scalars


def load_slots(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: JsonObject) -> None:
    """Give an optimizer back what `slots_of` took; its options stay its own."""
    slots: dict[int, dict[str, object]] = {}
    for name, value in (*tensors.items(), *scalars.items()):
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, held in optimizer.state.items():
        for key, value in held.items():
            # Fused kernels walk through parameter and slot by address: both must be laid out alike.
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                held[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
