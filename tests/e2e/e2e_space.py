"""Model code of the end-to-end tests: a tiny space, and a trial whose length is a number in the evaluator's config."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from archsearch.nn import LayerChoice
from archsearch.trial import TrialContext
from archsearch.zoo.nasbench201 import NASBench201


class Net(nn.Module):
    """Takes (N, 4), gives (N, 2). Sixty architectures: `random` never repeats one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice({f"w{width}": Pair(width) for width in range(1, 21)}, label="width")
        self.second = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh(), "silu": nn.SiLU()}, label="activation")

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))


class Unhurried(NASBench201):
    """A supernet's space that takes its time: what a test does to a running trial must not be late on a fast machine.

    Args:
        pause: seconds that each forward pass sleeps.
        arguments: of NASBench201.
    """

    def __init__(self, pause: float, **arguments: int) -> None:
        super().__init__(**arguments)
        self.pause = pause

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pause)
        return super().forward(x)


class Pair(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(4, width), nn.Linear(width, 2))


def fit(model: nn.Module, context: TrialContext, steps: int = 4, pause: float = 0.25) -> dict[str, float]:
    """`steps` steps with a pause after each, resumed from its checkpoint; the score follows from the architecture."""
    first = 0
    if (found := context.load_checkpoint()) is not None:
        model.load_state_dict(found[0])
        first = int(found[1]["step"])
    for step in range(first, steps):
        with torch.no_grad():
            model(torch.ones(1, 4))
        time.sleep(pause)
        context.report(step, {"score": step / steps})
        following = {"step": step + 1}
        context.checkpoint_point(lambda following=following: (model.state_dict(), following))
    return {"score": 1 / (1 + sum(parameter.numel() for parameter in model.parameters()))}


def broken(model: nn.Module, context: TrialContext) -> dict[str, float]:
    raise ValueError("this trial always fails")
