"""A network of your own as a search space, and a training function of your own. `custom_space.yaml` searches it.

On a laptop the file lies beside the manifest. On a cluster, bring it as a ConfigMap:
    kubectl create configmap custom-space --from-file=examples/custom_space.py
and add `source: {configMapName: custom-space}` below `modelSpace.python`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.evaluate.data import data_set
from archsearch.nn import LayerChoice, Repeat
from archsearch.trial import TrialContext


class Block(nn.Sequential):
    """A convolution whose kind and activation are searched; inside a Repeat each block decides for itself."""

    def __init__(self, width: int) -> None:
        super().__init__(
            LayerChoice(
                {
                    "conv3x3": nn.Conv2d(width, width, 3, padding=1),
                    "conv5x5": nn.Conv2d(width, width, 5, padding=2),
                    "depthwise": nn.Conv2d(width, width, 3, padding=1, groups=width),
                }
            ),
            nn.BatchNorm2d(width),
            LayerChoice({"relu": nn.ReLU(), "silu": nn.SiLU()}),
        )


class Net(nn.Module):
    """Takes images (N, 1, 8, 8), gives (N, 10)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.body = Repeat(lambda _: Block(width), (1, 3), label="depth")
        self.pool = LayerChoice({"mean": nn.AdaptiveAvgPool2d(2), "max": nn.AdaptiveMaxPool2d(2)}, label="pool")
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(images))).flatten(1))


def fit(model: nn.Module, context: TrialContext, epochs: int = 3, rate: float = 0.01) -> dict[str, float]:
    """Train `model`, the plain network of one architecture, and return its metrics. Keywords: `evaluator.config`."""
    arrays = data_set("digits").load()
    images = torch.from_numpy(arrays.inputs).float() / 16
    labels = torch.from_numpy(arrays.labels)
    train, held_out = slice(0, 1400), slice(1400, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    first = 0
    if (found := context.load_checkpoint()) is not None:  # an earlier attempt was interrupted
        tensors, state = found
        model.load_state_dict(tensors)
        first = state["epoch"]
    accuracy = 0.0
    for epoch in range(first, epochs):
        model.train()
        for chosen in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[train][chosen]), labels[train][chosen]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(images[held_out]).argmax(1) == labels[held_out]).float().mean())
        context.report(epoch, {"accuracy": accuracy})
        if epoch + 1 < epochs:
            following = {"epoch": epoch + 1}
            context.checkpoint_point(lambda following=following: (model.state_dict(), following))
    return {"accuracy": accuracy, "parameters": sum(parameter.numel() for parameter in model.parameters())}
