"""A plain training script that becomes a trial by three calls; NNI users change only the import.

By hand, with the first candidate of each choice:   python examples/plain_trial.py
As trials of a search:                              archsearch run examples/plain_trial.yaml
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.evaluate.data import data_set
from archsearch.nn import LayerChoice
from archsearch.trial import get_and_apply_next_architecture, report_final_result, report_intermediate_result


class Net(nn.Module):
    """Takes images (N, 64), gives (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = LayerChoice(
            {
                "narrow": nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 64)),
                "wide": nn.Linear(64, 64),
                "deep": nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)),
            },
            label="hidden",
        )
        self.activation = LayerChoice({"relu": nn.ReLU(), "tanh": nn.Tanh()}, label="activation")
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.activation(self.hidden(images)))


def main() -> None:
    arrays = data_set("digits").load()
    images = torch.from_numpy(arrays.inputs).flatten(1).float() / 16
    labels = torch.from_numpy(arrays.labels)

    model = Net()
    get_and_apply_next_architecture(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    accuracy = 0.0
    for _ in range(5):
        for chosen in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = float((model(images[1400:]).argmax(1) == labels[1400:]).float().mean())
        report_intermediate_result(accuracy)
    report_final_result(accuracy)


if __name__ == "__main__":
    main()
