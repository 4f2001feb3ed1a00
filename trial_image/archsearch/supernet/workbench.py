"""What a supernet's trainer works with: data in two parts, raw models, randomness, and what a checkpoint holds.
Imports torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.evaluate.data.splits import Part
from archsearch.evaluate.validation import validate
from archsearch.space import Rng
from archsearch.spec.base import JsonObject
from archsearch.supernet import distributed, weights
from archsearch.supernet.batchnorm import lay_out
from archsearch.supernet.elastic import widen
from archsearch.supernet.optimization import WeightOptimizer
from archsearch.supernet.state import Kept, Tensors, give_back, state_of

if TYPE_CHECKING:
    from archsearch.evaluate.measuring import Inputs
    from archsearch.evaluate.tasks import Task
    from archsearch.supernet.compiling import Compiled
    from archsearch.supernet.network import Supernet
    from archsearch.supernet.options import SupernetConfig
    from archsearch.trial.context import TrialContext

_SPLIT, _ORDER, _ARCHITECTURE_ORDER, _STEP = 0xA5A5A5A5, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD1B54A32D192ED03


@dataclass(frozen=True)
class Batch:
    """Prepared (and, for weights, augmented) inputs and their targets, on the device."""

    inputs: Tensor
    targets: Tensor


class Workbench:
    """The surroundings of one supernet trial.

    Args:
        build: makes the network with all its choices, weights drawn from the global random state.
        source: tensors and state of the earlier supernet trial that this one begins with; None: it begins afresh.
        inputs: what one input is, for costs; None where it is not known.
    """

    def __init__(
        self,
        context: TrialContext,
        config: SupernetConfig,
        task: Task,
        build: Callable[[], nn.Module],
        *,
        inputs: Inputs | None = None,
        source: tuple[Tensors, JsonObject] | None = None,
    ) -> None:
        self.context, self.config, self.task = context, config, task
        self.device, self.seed = context.device, context.seed
        self.input, self.inputs = source, inputs
        self._build = build
        self._kept: dict[str, Any] = {}
        self._parts: tuple[Part, Part] | None = None
        self.validation = task.validation.to(self.device)
        self.epoch = self.step = 0  # the position; the loop moves it
        self._orders: dict[tuple[int, int, int], Tensor] = {}
        self.compiled: Compiled | None = None
        if (ranks := distributed.world().size) > 1 and config.batch_size < 2 * ranks:
            raise UserError(
                f"batchSize {config.batch_size} is too small for trials.nodes {ranks}: each rank takes its share of a "
                f"batch, and needs 2 examples; make it {2 * ranks} or more"
            )
        if config.precision == "float16" and self.device == "cpu":
            raise UserError("precision float16 needs a GPU, and here is none: use bfloat16 or float32")

    # --- networks

    def model(self) -> nn.Module:
        """A new network with all its choices, on the device."""
        made = self._build()
        widen(made)
        made = made.to(self.device)
        if self.config.channels_last and any(parameter.dim() == 4 for parameter in made.parameters()):
            made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.device == "cpu":
                lay_out(made)
        return made

    def load_shared(self, model: nn.Module) -> bool:
        """Give a network the shared weights that the trial begins with.

        Returns:
            Whether there were any.

        Raises:
            UserError: they are another network's.
        """
        if self.input is None:
            return False
        weights.load_shared(model, self.input[0])
        return True

    def compile(self, supernet: Supernet) -> None:
        """Have `network` and `loss` run this supernet's mixtures compiled, where the options ask for that."""
        if self.config.compile:
            from archsearch.supernet.compiling import Compiled

            self.compiled = Compiled(supernet)

    def network(self, model: nn.Module | Callable[..., Any]) -> Callable[..., Any]:
        """What runs a network: itself, or what `compile` made of it."""
        compiled = self.compiled
        return compiled if compiled is not None and model is compiled.supernet.model else model

    def autocast(self) -> AbstractContextManager[object]:
        """Networks' forward passes belong in it, losses do not."""
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float16
        return torch.autocast(self.device, dtype=kind)

    def loss(self, model: nn.Module | Callable[..., Any], batch: Batch) -> Tensor:
        """The task's loss of a network on a batch, with its auxiliary output at 0.4 where it gives one."""
        with self.autocast():
            output = self.network(model)(batch.inputs)
        output, auxiliary = output if isinstance(output, (tuple, list)) else (output, None)
        loss = self.task.loss(output.float(), batch.targets)
        return loss if auxiliary is None else loss + 0.4 * self.task.loss(auxiliary.float(), batch.targets)

    def reward(self, model: nn.Module, batch: Batch) -> float:
        """The accuracy on a batch, or, of a task without, minus the loss. No gradients; the mode stays."""
        with torch.no_grad():
            with self.autocast():
                output = model(batch.inputs)
            output = output[0] if isinstance(output, (tuple, list)) else output
            sums = {name: value.tolist() for name, value in self.task.sums(output.float(), batch.targets).items()}
        metrics = self.task.metrics(sums)
        return self.mean(metrics["accuracy"] if "accuracy" in metrics else -metrics["loss"])

    def mean(self, value: float) -> float:
        """What a rank measured on its share of a batch, as the mean of all ranks: for what decides or is remembered."""
        return distributed.mean(value)

    def validate(self, model: nn.Module, *, limit: int | None = None) -> dict[str, float]:
        """The evaluator's metrics of a network, in eval mode, on the validation examples or the first `limit`.

        Several ranks go on from the mean of their running statistics, and all take rank 0's metrics.
        """
        distributed.average_tensors(model.buffers())
        found: dict[str, float] = distributed.broadcast_object(
            validate(model, self.task, self.validation, self.device, self.autocast, limit=limit)
        )
        return found

    # --- data

    @property
    def weight_part(self) -> Part:
        """The examples that weights are trained on."""
        return self._split()[0]

    @property
    def architecture_part(self) -> Part:
        """The examples that only the architecture is learned on; disjoint from the former.

        Raises:
            UserError: architectureShare is 0.
        """
        if not len(found := self._split()[1]):
            raise UserError("architectureShare is 0: there are no examples to learn the architecture on; take 0.5, say")
        return found

    def _split(self) -> tuple[Part, Part]:
        if self._parts is None:
            whole = self.task.train
            order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(_SPLIT))
            count = round(len(whole) * self.config.architecture_share)
            if not 0 <= count < len(whole) or (not count and self.config.architecture_share):
                raise UserError(
                    f"architectureShare {self.config.architecture_share:g} of {len(whole)} training examples leaves "
                    "none for one of the two parts: use more examples or another share"
                )
            self._parts = (_rows(whole, order[count:]).to(self.device), _rows(whole, order[:count]).to(self.device))
        return self._parts

    @property
    def steps(self) -> int:
        """Weight steps of an epoch."""
        return batches(len(self.weight_part), self.config.batch_size)

    @property
    def done(self) -> int:
        """Weight steps so far."""
        return self.epoch * self.steps + self.step

    def weight_batch(self) -> Batch:
        """The weights' batch of the present position, augmented."""
        return self._batch(self.weight_part, _ORDER, self.done, augmented=True)

    def architecture_batch(self, number: int | None = None) -> Batch:
        """A batch of the architecture's examples, not augmented: of the present step, or of a running number."""
        return self._batch(self.architecture_part, _ARCHITECTURE_ORDER, self.done if number is None else number)

    def calibration(self, count: int) -> Iterator[Tensor]:
        """Inputs of `count` batches of the weights' examples, the same at every call, to measure statistics on."""
        for number in range(count):
            yield self._batch(self.weight_part, _ORDER, number).inputs

    def _batch(self, part: Part, salt: int, number: int, *, augmented: bool = False) -> Batch:
        """Batch `number` of an endless sequence of passes, each in an order that follows from seed and pass alone.

        Of several ranks each takes its share, of equal length: of the last batch of a pass fewer examples than there
        are ranks may be left out.
        """
        size = self.config.batch_size
        count = batches(len(part), size)
        turn, place = divmod(number, count)
        order = self._order(len(part), salt, turn)
        chosen = order[place * size : None if place == count - 1 else (place + 1) * size]
        if (ranks := distributed.world().size) > 1:
            chosen = distributed.share(chosen[: len(chosen) // ranks * ranks])
        inputs, targets = part.batch(chosen, self.device)
        inputs = self.task.prepare(inputs)
        if augmented:
            inputs, targets = self.task.augment(inputs, targets, lambda: self.generator(_STEP, number))
        if self.config.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return Batch(inputs, targets)

    def _order(self, count: int, salt: int, turn: int) -> Tensor:
        key = (count, salt, turn)
        if key not in self._orders:
            for old in [each for each in self._orders if each[:2] == key[:2]]:
                del self._orders[old]
            self._orders[key] = torch.randperm(count, generator=self.generator(salt, turn))
        return self._orders[key]

    # --- randomness

    def generator(self, salt: int, number: int) -> torch.Generator:
        """Torch randomness of its own for each number, whatever was drawn before."""
        return torch.Generator().manual_seed((self.seed * salt + number) % 2**63)

    def rng(self, label: str) -> Rng:
        """Randomness for architectures, a function of the trial's seed and the label."""
        return Rng(self.seed).fork(label)

    # --- checkpoints

    def keep(self, name: str, thing: Kept) -> None:
        """Have checkpoints hold a module, an optimizer or something with `state` and `restore`.

        The name `model` is the supernet's: its tensors are the shared weights that later trials begin with.
        """
        self._kept[name] = thing
        if isinstance(thing, WeightOptimizer):
            self.context.copied_later(thing.optimizer)
        if isinstance(thing, torch.optim.Optimizer) and distributed.world().size > 1:
            thing.register_step_pre_hook(_average)

    def statistics(self) -> list[Tensor]:
        """Buffers of what is kept, for example running means: of several ranks each has its own."""
        modules = [thing for thing in self._kept.values() if isinstance(thing, nn.Module)]
        return [each for module in modules for each in module.buffers() if each.is_floating_point()]

    def own_statistics(self) -> Tensors:
        """The `statistics` of all ranks for a checkpoint, one row each; nothing of one rank."""
        if distributed.world().size == 1 or not (own := self.statistics()):
            return {}
        flat = torch.cat([each.detach().reshape(-1).double() for each in own])
        return {"ranks": torch.stack(distributed.gather(flat))}

    def restore_statistics(self, rows: Tensor) -> None:
        """Go on from this rank's row of `own_statistics`."""
        own = self.statistics()
        row = rows[distributed.world().rank].to(self.device)
        for each, part in zip(own, torch.split(row, [each.numel() for each in own]), strict=True):
            each.detach().copy_(part.view_as(each))

    def snapshot(self, prefix: str = "") -> tuple[Tensors, JsonObject]:
        """Everything kept: live tensors named PREFIX + KEPT.NAME, which whoever keeps them copies, and JSON."""
        tensors: Tensors = {}
        scalars: JsonObject = {}
        for name, thing in self._kept.items():
            held, state = state_of(thing, f"{prefix}{name}.")
            tensors |= held
            if state:
                scalars[name] = state
        return tensors, scalars

    def restore(self, tensors: Tensors, scalars: JsonObject) -> None:
        """Go on from what `snapshot` gave."""
        for name, thing in self._kept.items():
            prefix = f"{name}."
            held = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            give_back(thing, held, scalars.get(name, {}))

    def shared(self) -> tuple[Tensors, JsonObject]:
        """What later trials begin with: the shared weights by their own names, all else behind `weights.OTHER`."""
        tensors, scalars = self.snapshot()
        named = {
            name.removeprefix("model.") if name.startswith("model.") else f"{weights.OTHER}{name}": value
            for name, value in tensors.items()
        }
        return named, {"kept": scalars}

    def take_over(self, name: str) -> bool:
        """Give something that is kept the state that it had at the end of the trial that this one begins with.

        Returns:
            Whether there was any.
        """
        if self.input is None:
            return False
        tensors, state = self.input
        prefix = f"{weights.OTHER}{name}."
        held = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        kept = state.get("kept", {}).get(name, {})
        if not held and not kept:
            return False
        give_back(self._kept[name], held, kept)
        return True


def batches(count: int, size: int) -> int:
    """Batches of a pass. A last batch of one (a rank) would fail in batch normalization: the one before takes it in."""
    left = count % size
    return max(1, math.ceil(count / size) - (1 if 0 < left < 2 * distributed.world().size and size > 1 else 0))


def _average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    distributed.average_gradients(each for group in optimizer.param_groups for each in group["params"])


def _rows(part: Part, chosen: Tensor) -> Part:
    return Part(part.inputs, part.labels, chosen if part.rows is None else part.rows[chosen])
