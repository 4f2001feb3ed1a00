"""A network at its initialisation, and the data that proxies show it. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import Inputs

Loss = Callable[[Tensor, Tensor], Tensor]


class NotApplicable(Exception):
    """A proxy makes no sense for this kind of network or data; the text says why."""


@dataclass(frozen=True)
class Sample:
    """What networks are shown.

    Attributes:
        inputs: the form of one input.
        batches: prepared inputs (N, …) and targets (N, …); targets are None where nothing but inputs is known.
        loss: the mean loss of outputs and targets; None with the targets.
    """

    inputs: Inputs
    batches: Sequence[tuple[Tensor, Tensor | None]]
    loss: Loss | None = None


class Probe:
    """One network with its sample. The network itself stays as it is: passes are made on copies, in training mode.

    So batch normalisation normalises by the batch, as in the first step of a training; what a network draws by chance
    (dropout) is drawn from `seed`.
    """

    def __init__(self, network: nn.Module, sample: Sample, seed: int = 0) -> None:
        self.network, self.sample, self.seed = network, sample, seed
        self._gradients: dict[int, list[Tensor]] = {}

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in self.network.parameters()), torch.device("cpu"))

    @cached_property
    def weights(self) -> list[Tensor]:
        """The network's weights, detached: parameters of two axes or more (no biases, no scales of normalisations)."""
        return [each.detach() for each in _weights(self.network)]

    def copy(self) -> nn.Module:
        """A copy in training mode, without gradients; the random state is seeded."""
        network = copy.deepcopy(self.network).train()
        network.zero_grad(set_to_none=True)
        seed_everything(self.seed, self.device.type)
        return network

    def gradients(self, batch: int = 0) -> list[Tensor]:
        """Gradients of the loss of one batch, one for each of `weights`; zeros where the loss does not depend on one.

        Raises:
            NotApplicable: there are no targets, or not as many batches.
        """
        if batch not in self._gradients:
            self._gradients[batch] = self._backward(batch)
        return self._gradients[batch]

    def _backward(self, batch: int) -> list[Tensor]:
        if self.sample.loss is None:
            raise NotApplicable("it needs a loss, and a user's training function does not tell which")
        if batch >= len(self.sample.batches):
            raise NotApplicable(f"it needs {batch + 1} batches of data")
        inputs, targets = self.sample.batches[batch]
        network = self.copy()
        weights = _weights(network)
        assert targets is not None  # noqa: S101  # it comes with the loss
        loss = self.sample.loss(output(network, inputs.to(self.device)), targets.to(self.device))
        if not weights or not loss.requires_grad:
            return [torch.zeros_like(each) for each in weights]
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [torch.zeros_like(weight) if each is None else each for weight, each in zip(weights, found, strict=True)]


def output(network: nn.Module, inputs: Tensor) -> Tensor:
    """The network's output; of networks with an auxiliary head the first."""
    found = network(inputs)
    return found[0] if isinstance(found, (tuple, list)) else found  # type: ignore[no-any-return]


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [each for each in network.parameters() if each.requires_grad and each.ndim >= 2]
