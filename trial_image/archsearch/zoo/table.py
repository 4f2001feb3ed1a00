"""`python -m archsearch.zoo.table` prints the table of the zoo's spaces that the documentation shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from archsearch.evaluate.profile import count
from archsearch.registry import registered
from archsearch.space import Rng
from archsearch.zoo.building import build, describe_space, published

SAMPLES = 8
CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
INPUTS = {"proxylessnas": IMAGENET, "mobilenetv3": IMAGENET, "shufflenet-spos": IMAGENET, "textnas": (64,)}

HEAD = f"""# The zoo

Search spaces of the literature, by name: `archsearch.zoo.build(space, architecture, **args)` makes a plain network.
An architecture is a published name, the space's customary notation, or an object `{{choice: decision}}`:

```python
from archsearch import zoo

zoo.build("darts", "DARTS_V2", channels=36, cells=20, classes=10)            # 3,349,342 parameters
zoo.build("darts", {{"normal": [["sep_conv_3x3", 0], …], "reduce": […], "normal_concat": [2, 3, 4, 5]}})
zoo.build("nasbench201", "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|")
zoo.build("nasbench101", {{"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "operations": ["conv3x3-bn-relu"]}})
zoo.build("proxylessnas", ["k5e3", "k3e3", "zero", …])                       # or indices of the candidates
zoo.architecture("darts", "PC_DARTS")                                        # the architecture alone
```

`darts`, `enas-micro`, `nasnet`, `amoebanet` and `pnas` share an evaluation network and its arguments: `channels`,
`cells`, `classes`, `input_channels`, `stem` (`cifar` or `imagenet`), `auxiliary` (a forward pass in training then
gives two outputs) and `drop_path` (`archsearch.zoo.set_drop_path` changes it). A notation that merges other nodes than
its space does makes these a choice, `concat="chosen"`. Before a network is fixed its cells merge all nodes.

Sizes are exact. Parameters and multiply-adds are the least and the greatest of {SAMPLES} random architectures with the
default arguments, at 32 × 32 pixels, 224 × 224 for the mobile spaces, and 64 words for `textnas`.
`python -m archsearch.zoo.table` prints this page.

| space | architectures | choices | parameters | multiply-adds | published architectures |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """What the table says of one space."""

    name: str
    size: int
    choices: int
    params: tuple[int, int]
    macs: tuple[int, int]
    published: tuple[str, ...]

    def __str__(self) -> str:
        mantissa, exponent = f"{self.size:.2e}".split("e+")
        size = f"{self.size:,}" if self.size < 10**7 else f"{mantissa} · 10^{int(exponent)}"
        ranges = (" … ".join(f"{number / 1e6:,.2f} M" for number in pair) for pair in (self.params, self.macs))
        names = ", ".join(f"`{name}`" for name in self.published) or "none"
        return f"| `{self.name}` | {size} | {self.choices} | {' | '.join(ranges)} | {names} |"


def row(name: str, samples: int = SAMPLES, **args: Any) -> Row:
    """Measure one space over random architectures, always the same ones."""
    space, rng = describe_space(name, **args), Rng(name)
    counts = [
        count(build(name, space.sample(rng), **args), INPUTS.get(name, CIFAR)) for _ in range(samples)
    ]  # fmt: skip
    params, macs = sorted(c.params for c in counts), sorted(c.macs for c in counts)
    first = {id(entry): key for key, entry in reversed(published(name).items())}
    return Row(
        name,
        space.size(),
        len(space.choices),
        (params[0], params[-1]),
        (macs[0], macs[-1]),
        tuple(key for key in published(name) if key in first.values()),
    )


def lines() -> Iterator[str]:
    """The page, a piece at a time."""
    yield HEAD
    for name in registered("archsearch.spaces"):
        yield f"{row(name)}\n"


if __name__ == "__main__":
    for line in lines():
        sys.stdout.write(line)
        sys.stdout.flush()
