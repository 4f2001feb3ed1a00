"""Load the best model of a digits run and let it read some digits.

python examples/predict_digits.py archsearch-runs/digits
"""

from __future__ import annotations

import sys

import torch

import archsearch
from archsearch.evaluate.data import data_set

SHADES = " .:-=+*#%@"  # for pixels of 0 to 16


def main(run: str) -> None:
    model = archsearch.load(run)
    inputs = model.archsearch["input"]
    scaling = inputs["scaling"]
    mean, std = (torch.tensor(scaling[name]).view(1, -1, 1, 1) for name in ("mean", "std"))

    arrays = data_set("digits").load()
    raw = torch.from_numpy(arrays.inputs).float()
    labels = torch.from_numpy(arrays.labels)
    with torch.no_grad():
        predicted = model((raw / scaling["divisor"] - mean) / std).argmax(1)

    for index in (0, 700, 1400):
        for row in arrays.inputs[index, 0]:
            print("".join(SHADES[int(value) * 10 // 17] * 2 for value in row))
        print(f"read as {int(predicted[index])}, is {int(labels[index])}\n")
    right = int((predicted == labels).sum())
    print(f"{right} of {len(labels)} digits read right (the images that it was trained on included)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: predict_digits.py RUN   (a run's folder or URI, for example archsearch-runs/digits)")
    main(sys.argv[1])
