"""The trainer of the training evaluators: steps over tensors, resumable between any two of them. Imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.determinism import random_state, restore_random_state
from archsearch.evaluate.optimization import Stepper, learning_rate
from archsearch.protocol import RESUMED_FIDELITY
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.evaluate.options import TrainingConfig
    from archsearch.evaluate.tasks import Task
    from archsearch.trial.context import TrialContext

# The loss is looked at this often: on a GPU each look waits for the device.
CHECK_EVERY = 32
_MODEL = "model."
_ORDER_SALT = 0x9E3779B97F4A7C15
_STEP_SALT = 0xD1B54A32D192ED03


@dataclass
class Position:
    """Where training stands between two steps."""

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """One training: model, optimizer and position, with their checkpoint.

    A network may give ``(output, auxiliary output)`` in training mode, the latter None or like the former: its loss
    counts ``auxiliaryWeight``. Modules with an attribute `drop_path_probability` have it set before each epoch where
    the configuration says `dropPath`: it grows linearly from 0, as in DARTS (Liu et al. 2019, section A.2).
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, task: Task, context: TrialContext) -> None:
        self.device = context.device
        self.model = model.to(self.device)
        self.config, self.task, self.context = config, task, context
        self.train_part, self.validation_part = task.train.to(self.device), task.validation.to(self.device)
        # A last batch of one would fail in batch normalisation: it is left to the batch before.
        count, size = len(self.train_part), config.batch_size
        self.steps = max(1, math.ceil(count / size) - (1 if count % size == 1 and size > 1 else 0))
        self.stepper = Stepper(model, config, self.device)
        self.droppers = _droppers(model)
        if config.drop_path and not self.droppers:
            raise UserError(
                f"dropPath is {config.drop_path:g}, but {type(model).__name__} has no drop-path: leave it out, or give "
                "the modules that drop paths an attribute drop_path_probability"
            )
        self.position = Position()
        self.target = _target(config, context)

    def run(self) -> dict[str, float]:
        """Train to the trial's fidelity, or to the end, in place.

        The schedule is that of all `epochs` whatever the fidelity, and what was trained at a lower one is gone on with:
        4 epochs and then on to 12 give the same bits as 12 at once.

        Returns:
            The metrics of the last epoch.

        Raises:
            BadMetric: the loss or another metric is not finite.
            UserError: the network does not take the inputs, or gives outputs of another shape; or the fidelity is none.
        """
        found = self.context.load_checkpoint() or self._earlier()
        if found is not None:
            self.restore(*found)
        else:
            self._check_network()
        while self.position.epoch < self.target:
            self._epoch()
        if self.target < self.config.epochs:
            tensors, state = self.snapshot()
            own = {name: value for name, value in tensors.items() if not name.startswith(_MODEL)}
            self.context.save_progress(own, state)
        return self.position.metrics

    def _earlier(self) -> tuple[dict[str, Tensor], JsonObject] | None:
        """Where the same architecture's trial at the lower fidelity ended, as `snapshot` tells it."""
        if RESUMED_FIDELITY not in self.context.assignment.params:
            return None
        weights = self.context.load_input()
        if weights is None:
            return None  # they were not kept: the same training from its start
        progress = self.context.load_progress()
        if progress is None:
            raise UserError("the trial is to go on with a training, but the weights that it has hold no optimizer")
        return {f"{_MODEL}{name}": value for name, value in weights[0].items()} | progress[0], progress[1]

    def _epoch(self) -> None:
        position = self.position
        self.model.train()
        if self.config.drop_path is not None:
            for module, attribute in self.droppers:
                setattr(module, attribute, self.config.drop_path * position.epoch / self.config.epochs)
        # The order follows from seed and epoch alone: the position is all that a checkpoint needs.
        order = torch.randperm(len(self.train_part), generator=self._generator(_ORDER_SALT, position.epoch))
        size = self.config.batch_size
        while position.step < self.steps:
            last = position.step == self.steps - 1
            self._step(order[position.step * size : None if last else (position.step + 1) * size])
            position.step += 1
            if position.step % CHECK_EVERY == 0:
                self._finite()
            if position.step < self.steps:
                self.context.checkpoint_point(self.snapshot)
        position.metrics = {**self.validate(), "trainLoss": self._finite()}
        self._check_metrics()
        self.context.report(position.epoch, position.metrics)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        if position.epoch < self.target:
            self.context.checkpoint_point(self.snapshot)

    def _step(self, chosen: Tensor) -> None:
        done = self.position.epoch * self.steps + self.position.step
        inputs, targets = self.train_part.batch(chosen, self.device)
        inputs, targets = self.task.augment(
            self.task.prepare(inputs), targets, lambda: self._generator(_STEP_SALT, done)
        )
        with self.stepper.autocast():
            output = self.model(inputs)
        output, auxiliary = output if isinstance(output, (tuple, list)) else (output, None)
        loss = self.task.loss(output.float(), targets)
        if auxiliary is None and self.config.auxiliary:
            raise UserError(
                f"auxiliary is true, but {type(self.model).__name__} gives no auxiliary output in training: leave it "
                "out, or return (output, auxiliary output)"
            )
        if auxiliary is not None and self.config.auxiliary_weight:
            loss = loss + self.config.auxiliary_weight * self.task.loss(auxiliary.float(), targets)
        self.stepper.step(loss, learning_rate(self.config, done, self.steps))
        self.position.losses.append(loss.detach())

    def _generator(self, salt: int, number: int) -> torch.Generator:
        """Of its own for each epoch and step, so that what was drawn before an interruption does not matter."""
        return torch.Generator().manual_seed((self.context.seed * salt + number) % 2**63)

    def validate(self) -> dict[str, float]:
        """Metrics of the validation examples, in eval mode."""
        self.model.eval()
        part, size = self.validation_part, self.task.validation_batch
        sums: dict[str, Tensor] = {}
        with torch.inference_mode():
            for chosen in torch.split(torch.arange(len(part)), size):
                inputs, targets = part.batch(chosen, self.device)
                with self.stepper.autocast():
                    output = self.model(self.task.prepare(inputs))
                for name, value in self.task.sums(output.float(), targets).items():
                    sums[name] = sums[name] + value if name in sums else value
        return self.task.metrics({name: value.tolist() for name, value in sums.items()})

    def _finite(self) -> float:
        """Mean training loss of the epoch so far; BadMetric where it is not finite."""
        mean = float(torch.stack(self.position.losses).mean())
        if not math.isfinite(mean):
            raise BadMetric(
                f"the training loss is {mean} in epoch {self.position.epoch + 1}, step {self.position.step}: "
                f"{self._advice()}"
            )
        return mean

    def _check_metrics(self) -> None:
        for name, value in self.position.metrics.items():
            if not math.isfinite(value):
                what = "the validation loss" if name == "loss" else f"metric {name!r}"
                raise BadMetric(f"{what} is {value} after epoch {self.position.epoch + 1}: {self._advice()}")

    def _advice(self) -> str:
        return f"training diverged; lower learningRate ({self.config.learning_rate}) or change the optimizer"

    def _check_network(self) -> None:
        """One forward pass without gradients, so that a network of the wrong shape fails with words."""
        count = min(2, len(self.train_part))
        inputs, targets = self.train_part.batch(torch.arange(count), self.device)
        batch = self.task.prepare(inputs)
        self.model.eval()
        try:
            with torch.no_grad():
                output = self.model(batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(
                f"the network does not take inputs of shape {tuple(batch.shape)} ({self.task.axes}): {error}"
            ) from error
        expected = self.task.expected(targets)
        if not isinstance(output, torch.Tensor) or not expected.fits(output):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UserError(
                f"the network gives {shape} for inputs of shape {tuple(batch.shape)}; expected {expected.words}"
            )

    def snapshot(self) -> tuple[dict[str, Tensor], JsonObject]:
        """Everything that the next step depends on: live tensors, which whoever keeps them copies."""
        tensors, state = random_state(self.device)
        for name, value in self.model.state_dict(keep_vars=True).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_MODEL}{name}"] = value
        slots, optimizer = self.stepper.state()
        tensors |= {f"optimizer.{name}": value for name, value in slots.items()}
        if self.position.losses:
            tensors["losses"] = torch.stack(self.position.losses)
        return tensors, {
            "random": state,
            "optimizer": optimizer,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "metrics": self.position.metrics,
        }

    def restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        """Go on from what `snapshot` gave."""
        self.model.load_state_dict(_below(_MODEL, tensors))
        self.stepper.restore(_below("optimizer.", tensors), state["optimizer"])
        losses = list(tensors["losses"].to(self.device).unbind()) if "losses" in tensors else []
        self.position = Position(int(state["epoch"]), int(state["step"]), losses, dict(state["metrics"]))
        restore_random_state(tensors, state["random"], self.device)


def _target(config: TrainingConfig, context: TrialContext) -> int:
    """Epochs after which the trial ends."""
    fidelity = context.fidelity
    if fidelity is None:
        return config.epochs
    if not (1 <= fidelity <= config.epochs and fidelity == int(fidelity)):
        raise UserError(f"the fidelity {fidelity:g} is no number of epochs from 1 to the evaluator's {config.epochs}")
    return int(fidelity)


def _droppers(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Modules with the attribute that holds their probability of dropping a path."""
    from archsearch.zoo.operations import DropPath

    name = "drop_path_probability"
    named = [(module, name) for module in model.modules() if hasattr(module, name)]
    return named + [(module, "probability") for module in model.modules() if isinstance(module, DropPath)]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
