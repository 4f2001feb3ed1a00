"""The training loop of the evaluators: steps over tensors in memory, resumable between any two steps. Imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.data.splits import Part, Split, split
from archsearch.evaluate.determinism import random_state, restore_random_state
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.evaluate.classification import ClassificationConfig
    from archsearch.trial.context import TrialContext

# The loss is looked at this often: on a GPU each look waits for the device.
CHECK_EVERY = 32
VALIDATION_BATCH = 1024
_ORDER_SALT = 0x9E3779B97F4A7C15


def train_classifier(model: nn.Module, config: ClassificationConfig, context: TrialContext) -> dict[str, float]:
    """Train `model` in place and return accuracy, loss and trainLoss of the last epoch.

    Raises:
        BadMetric: the loss is not finite.
        UserError: the network does not take the images or does not give one value a class.
    """
    data = split(config)
    trainer = Trainer(model, config, data, context)
    return trainer.run()


@dataclass
class Position:
    """Where training stands between two steps."""

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One training: model, optimizer and position, with their checkpoint."""

    def __init__(self, model: nn.Module, config: ClassificationConfig, data: Split, context: TrialContext) -> None:
        self.device = context.device
        self.model = model.to(self.device)
        self.config, self.data, self.context = config, data, context
        self.train_part, self.validation_part = data.train.to(self.device), data.validation.to(self.device)
        self.steps = math.ceil(len(self.train_part) / config.batch_size)
        self.optimizer = make_optimizer(model, config, self.device)
        self.position = Position()

    def run(self) -> dict[str, float]:
        found = self.context.load_checkpoint()
        if found is not None:
            self.restore(*found)
        else:
            self._check_output()
        while self.position.epoch < self.config.epochs:
            self._epoch()
        return self.position.metrics

    def _epoch(self) -> None:
        position = self.position
        self.model.train()
        # The order follows from seed and epoch alone: the position is all that a checkpoint needs.
        generator = torch.Generator().manual_seed((self.context.seed * _ORDER_SALT + position.epoch) % 2**63)
        order = torch.randperm(len(self.train_part), generator=generator).to(self.device)
        size = self.config.batch_size
        while position.step < self.steps:
            chosen = order[position.step * size : (position.step + 1) * size]
            self._step(chosen)
            position.step += 1
            if position.step % CHECK_EVERY == 0:
                self._finite()
            if position.step < self.steps:
                self.context.checkpoint_point(self.snapshot)
        train_loss = self._finite()
        accuracy, loss = validate(self.model, self.validation_part, self.data)
        position.metrics = {"accuracy": accuracy, "loss": loss, "trainLoss": train_loss}
        if not math.isfinite(loss):
            raise BadMetric(f"the validation loss is {loss} after epoch {position.epoch + 1}: {self._advice()}")
        self.context.report(position.epoch, position.metrics)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        if position.epoch < self.config.epochs:
            self.context.checkpoint_point(self.snapshot)

    def _step(self, chosen: Tensor) -> None:
        inputs = self.data.prepare(self.train_part.inputs.index_select(0, chosen))
        labels = self.train_part.labels.index_select(0, chosen)
        rate = learning_rate(self.config, self.position.epoch * self.steps + self.position.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.position.losses.append(loss.detach())

    def _finite(self) -> float:
        """Mean training loss of the epoch so far; BadMetric where it is not finite."""
        mean = float(torch.stack(self.position.losses).mean())
        if not math.isfinite(mean):
            raise BadMetric(
                f"the training loss is {mean} in epoch {self.position.epoch + 1}, step {self.position.step}: "
                f"{self._advice()}"
            )
        return mean

    def _advice(self) -> str:
        return f"training diverged; lower learningRate ({self.config.learning_rate}) or change the optimizer"

    def _check_output(self) -> None:
        """One forward pass without gradients, so that a network of the wrong shape fails with words."""
        needed = int(max(self.train_part.labels.max(), self.validation_part.labels.max())) + 1
        batch = self.data.prepare(self.train_part.inputs[:2])
        self.model.eval()
        try:
            with torch.no_grad():
                output = self.model(batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"the network does not take inputs of shape {tuple(batch.shape)} (batch, channels, height, width): "
                f"{error}"
            ) from error
        if (
            not isinstance(output, torch.Tensor)
            or output.ndim != 2
            or output.shape[0] != len(batch)
            or output.shape[1] < needed
        ):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UserError(
                f"the network gives {shape} for inputs of shape {tuple(batch.shape)}; expected ({len(batch)}, classes) "
                f"with at least {needed} classes"
            )

    def snapshot(self) -> tuple[dict[str, Tensor], JsonObject]:
        """Everything that the next step depends on, copied to host memory."""
        tensors, state = random_state(self.device)
        for name, value in self.model.state_dict().items():
            if isinstance(value, torch.Tensor):
                tensors[f"model.{name}"] = host_copy(value)
        optimizer = self.optimizer.state_dict()
        scalars: JsonObject = {}
        for index, slots in optimizer["state"].items():
            for key, value in slots.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{index}.{key}"] = host_copy(value)
                else:
                    scalars[f"{index}.{key}"] = value
        if self.position.losses:
            tensors["losses"] = host_copy(torch.stack(self.position.losses))
        return tensors, {
            "random": state,
            "optimizer": scalars,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "metrics": self.position.metrics,
        }

    def restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        slots: dict[int, dict[str, object]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                slots.setdefault(int(index), {})[key] = value
        for name, scalar in state["optimizer"].items():
            index, key = name.split(".", 1)
            slots.setdefault(int(index), {})[key] = scalar
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        losses = list(tensors["losses"].to(self.device).unbind()) if "losses" in tensors else []
        self.position = Position(int(state["epoch"]), int(state["step"]), losses, dict(state["metrics"]))
        restore_random_state(tensors, state["random"], self.device)


def host_copy(value: Tensor) -> Tensor:
    """A contiguous copy in host memory that shares nothing with `value`."""
    return value.detach().to("cpu", copy=True).contiguous()


def make_optimizer(model: nn.Module, config: ClassificationConfig, device: str) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError(
            "the network has no parameters to train: choose an evaluator that does not train, or another space"
        )
    rate, decay = config.learning_rate, config.weight_decay
    # One fused kernel a step: with tiny layers the loop over parameters would cost more than the arithmetic.
    fused = all(parameter.is_floating_point() for parameter in parameters)
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            parameters, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=nesterov, fused=fused
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, betas=(config.momentum, 0.999), weight_decay=decay, fused=fused)


def learning_rate(config: ClassificationConfig, step: int, steps: int) -> float:
    """The rate of a step counted from the start; cosine to 0 without restarts (Loshchilov & Hutter 2017)."""
    if config.schedule == "constant":
        return config.learning_rate
    return 0.5 * config.learning_rate * (1 + math.cos(math.pi * step / (config.epochs * steps)))


def validate(model: nn.Module, part: Part, data: Split) -> tuple[float, float]:
    """(accuracy, mean cross-entropy) of `part` in eval mode."""
    model.eval()
    correct, loss = 0.0, 0.0
    with torch.inference_mode():
        for start in range(0, len(part), VALIDATION_BATCH):
            output = model(data.prepare(part.inputs[start : start + VALIDATION_BATCH]))
            labels = part.labels[start : start + VALIDATION_BATCH]
            correct += float((output.argmax(dim=1) == labels).sum())
            loss += float(functional.cross_entropy(output, labels, reduction="sum"))
    return correct / len(part), loss / len(part)
