"""The two spaces of ENAS (Pham, Guan, Zoph, Le and Dean, "Efficient Neural Architecture Search via Parameter Sharing",
ICML 2018): cells (section 2.4) and whole networks (section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import InputChoice, LayerChoice
from archsearch.nn.sparing import candidates
from archsearch.zoo import genotypes
from archsearch.zoo.arguments import probability, whole
from archsearch.zoo.building import Published
from archsearch.zoo.cells import CellNetwork
from archsearch.zoo.operations import Halving, conv


class ENASMicro(CellNetwork):
    __doc__ = f"""Five nodes, five operations, the unused nodes merged. {CellNetwork.__doc__}"""

    name = "enas-micro"
    operations = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")
    published = genotypes.ENAS


def _prepared(channels: int, *layers: nn.Module, activation: bool) -> nn.Sequential:
    """A 1×1 convolution before the operation, a normalization without weights behind it."""
    first = [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=False), nn.ReLU()]
    last = [nn.BatchNorm2d(channels, affine=False), *([nn.ReLU()] if activation else [])]
    return nn.Sequential(*first, *layers, *last)


def _convolution(channels: int, kernel: int) -> nn.Module:
    return _prepared(channels, conv(channels, channels, kernel), activation=True)


def _separable(channels: int, kernel: int) -> nn.Module:
    depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return _prepared(channels, depthwise, conv(channels, channels, 1), activation=True)


MACRO: dict[str, Callable[[int], nn.Module]] = {
    "conv_3x3": lambda c: _convolution(c, 3),
    "sep_conv_3x3": lambda c: _separable(c, 3),
    "conv_5x5": lambda c: _convolution(c, 5),
    "sep_conv_5x5": lambda c: _separable(c, 5),
    "avg_pool_3x3": lambda c: _prepared(c, nn.AvgPool2d(3, 1, 1, count_include_pad=False), activation=False),
    "max_pool_3x3": lambda c: _prepared(c, nn.MaxPool2d(3, 1, 1), activation=False),
}
"""By name, in the order of the authors' numbers 0 … 5: functions of the channels."""

_FINAL = """0|3 0|0 1 0|2 0 0 1|2 0 0 0 0|3 1 1 0 1 0|2 0 0 0 0 0 1|2 0 1 1 0 1 1 1|1 0 1 1 1 0 1 0 1|
0 0 0 0 0 0 0 0 0 0|2 0 0 0 0 0 1 0 0 0 0|0 1 0 0 1 1 0 0 0 0 1 1|2 0 1 0 0 0 0 0 1 0 1 1 0|1 0 0 1 0 0 0 1 1 1 0 1 0 1|
0 1 1 0 1 0 1 0 0 0 0 0 1 0 0|2 0 0 1 0 0 0 0 0 0 0 1 0 1 0 1|2 0 1 0 0 0 1 0 0 1 1 1 1 0 0 1 0|
2 0 0 0 0 1 0 1 0 1 0 0 1 0 1 0 0 1|3 0 1 1 0 1 0 0 0 0 0 1 0 1 0 1 0 0 0|3 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 0 1|
0 1 0 0 1 0 1 1 0 0 0 1 0 0 0 0 0 1 1 0 0|3 0 1 0 1 1 0 0 1 0 1 1 0 1 1 0 1 0 0 1 0 0|
0 1 0 1 0 1 0 0 0 0 0 0 0 0 1 0 1 0 0 1 0 0 0|0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0"""


class MacroLayer(nn.Module):
    """An operation on the layer before, plus the sum of any number of earlier layers, normalized."""

    def __init__(self, number: int, channels: int) -> None:
        super().__init__()
        self.op = LayerChoice(
            candidates(f"op_{number}", {name: partial(make, channels) for name, make in MACRO.items()}),
            label=f"op_{number}",
        )
        self.skips = InputChoice(number, None, "sum", label=f"skips_{number}") if number else None
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        out = self.op(earlier[-1])
        if self.skips is not None:
            out = out + self.skips(earlier[:-1])
        normalized: Tensor = self.norm(out)
        return normalized


class ENASMacro(nn.Module):
    """A chain of layers, each with one of six operations and skip connections from any earlier ones.

    Height and width are halved after a third and two thirds of the layers. Input (N, input_channels, H, W), output
    (N, classes). Skip connection 0 of a layer comes from the stem, i from layer i − 1.

    Args:
        channels: of every layer.
        layers: how many; the paper searches 12.
        classes: outputs.
        input_channels: of the images.
        dropout: before the linear layer.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str] = "enas-macro"
    small: ClassVar[Mapping[str, Any]] = {"channels": 2}
    published: ClassVar[Mapping[str, Published]] = {
        "ENAS_macro": Published(
            " ".join(_FINAL.replace("|", " ").split()),
            "Pham 2018, section 3.2, as its authors' script has it",
            {"layers": 24, "channels": 96},
        )
    }

    def __init__(
        self, *, channels: int = 36, layers: int = 12, classes: int = 10, input_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        whole(self.name, channels=channels, layers=layers, classes=classes, input_channels=input_channels)
        probability(self.name, "dropout", dropout)
        self.stem = nn.Sequential(conv(input_channels, channels, 3), nn.BatchNorm2d(channels))
        self.layers = nn.ModuleList(MacroLayer(i, channels) for i in range(layers))
        distance = layers // 3
        self.pool_after = tuple(i for i in (distance - 1, 2 * distance - 1) if i >= 0)
        half = channels // 2
        self.pools = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                Halving(conv(channels, half, 1, 2), conv(channels, channels - half, 1, 2)),
                nn.BatchNorm2d(channels, affine=False),
            )
            for _ in self.pool_after
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        earlier = [self.stem(images)]
        for i, layer in enumerate(self.layers):
            earlier.append(layer(earlier))
            if i in self.pool_after:
                pool = self.pools[self.pool_after.index(i)]
                earlier = [pool(x) for x in earlier]
        logits: Tensor = self.classifier(self.head(earlier[-1]))
        return logits

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From the authors' numbers (operation, then a bit for each earlier layer): a text, a list, or a list a layer.

        Raises:
            UserError: they are no such numbers.
        """
        given = notation["layers"] if isinstance(notation, Mapping) else notation
        numbers = list(_flat(given.replace(",", " ").split() if isinstance(given, str) else given))
        names, found, layer = tuple(MACRO), dict[str, Any](), 0
        while numbers:
            (op, *bits), numbers = numbers[: layer + 1], numbers[layer + 1 :]
            if len(bits) < layer or op not in range(len(names)) or not set(bits) <= {0, 1}:
                raise UserError(
                    f"{cls.name}: layer {layer} of a notation is an operation from 0 to {len(names) - 1} and {layer} "
                    f"bits, not {[op, *bits]}"
                )
            found[f"op_{layer}"] = names[op]
            if layer:
                found[f"skips_{layer}"] = [i for i, bit in enumerate(bits) if bit]
            layer += 1
        return found

    @classmethod
    def implied(cls, decisions: Mapping[str, Any]) -> dict[str, Any]:
        """The number of layers."""
        return {"layers": sum(key.startswith("op_") for key in decisions) or 12}


def _flat(given: Any) -> Iterable[int]:
    if isinstance(given, str | int):
        try:
            yield int(given)
        except ValueError:
            raise UserError(f"enas-macro: {given!r} in a notation is no whole number") from None
    elif isinstance(given, Iterable):
        for item in given:
            yield from _flat(item)
    else:
        raise UserError(f"enas-macro: {given!r} in a notation is no whole number")
