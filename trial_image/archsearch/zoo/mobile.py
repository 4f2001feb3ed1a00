"""Chains of mobile inverted bottlenecks: ProxylessNAS (Cai, Zhu and Han, ICLR 2019) and MobileNetV3 (Howard 2019), the
latter in the form of Once-for-All (Cai 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import LayerChoice
from archsearch.nn.sparing import candidates
from archsearch.zoo.arguments import one_of, probability, whole
from archsearch.zoo.building import Published
from archsearch.zoo.chain import block_decisions
from archsearch.zoo.operations import conv

Activation = Callable[[], nn.Module]


def divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple, but never less than 90 % of the value (Sandler 2018)."""
    near = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * value else near


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int, activation: Activation | None) -> nn.Sequential:
    """Convolution without bias, batch normalization, activation."""
    layers = [conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Channels weighted by what they hold on average (Hu 2018), with a hard sigmoid as in MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = divisible(channels / 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(x)
        return out


class MBConv(nn.Module):
    """A mobile inverted bottleneck (Sandler 2018): widen, depthwise convolution, narrow; a residual where shapes allow.

    Args:
        inputs, outputs: channels.
        kernel: of the depthwise convolution.
        expansion: of the width; with 1 nothing is widened.
        stride: of the depthwise convolution.
        activation: after the first two convolutions.
        squeeze: add squeeze-and-excitation before narrowing.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        expansion: float,
        stride: int,
        activation: Activation,
        squeeze: bool,
    ) -> None:
        super().__init__()
        width = inputs if expansion == 1 else divisible(inputs * expansion)
        depthwise = nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False)
        self.body = nn.Sequential(
            *([] if expansion == 1 else [conv_norm(inputs, width, 1, 1, activation)]),
            nn.Sequential(depthwise, nn.BatchNorm2d(width), activation()),
            *([SqueezeExcite(width)] if squeeze else []),
            conv_norm(width, outputs, 1, 1, None),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.residual else out


def block_name(kernel: int, expansion: float) -> str:
    """k3e6, or k3e2_5 for a broken expansion (a candidate's name has no dot)."""
    return f"k{kernel}e{expansion:g}".replace(".", "_")


class MobileNetwork(nn.Module):
    """A chain of stages of blocks, each an inverted bottleneck of chosen kernel size and expansion.

    Every block but a stage's first may be skipped (``zero``), which makes the depth a choice too. Input
    (N, input_channels, H, W), output (N, classes). Its notation is a list of the blocks' names or indices.

    Args:
        width: factor of all widths, which stay multiples of 8.
        depth: blocks of a stage, at most.
        classes: outputs.
        input_channels: of the images.
        input_size: height and width of the images; nothing depends on it.
        stem: "imagenet", or "cifar", without the first two of the five halvings.
        dropout: before the last linear layer.
        widths: of the stem, the first block, each stage and the head, instead of the paper's.
        kernels, expansions: of the candidates.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str]
    standard_widths: ClassVar[tuple[int, ...]]
    standard_expansions: ClassVar[tuple[float, ...]]
    strides: ClassVar[tuple[int, ...]]
    activations: ClassVar[tuple[Activation, ...]]  # of the stem, each stage and the head
    squeezed: ClassVar[tuple[bool, ...]]
    depths: ClassVar[tuple[int | None, ...]]  # of each stage; None: the argument
    published: ClassVar[Mapping[str, Published]] = {}
    small: ClassVar[Mapping[str, Any]] = {"widths": None, "width": 0.1, "classes": 1}

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: int = 4,
        classes: int = 1000,
        input_channels: int = 3,
        input_size: int = 224,
        stem: str = "imagenet",
        dropout: float = 0.0,
        widths: Sequence[int] | None = None,
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        whole(self.name, depth=depth, classes=classes, input_channels=input_channels, input_size=input_size)
        one_of(self.name, "stem", stem, ("cifar", "imagenet"))
        probability(self.name, "dropout", dropout)
        if isinstance(width, bool) or not isinstance(width, int | float) or not width > 0:
            raise UserError(f"{self.name}: width is a number above 0, not {width!r}")
        expansions = self.standard_expansions if expansions is None else expansions
        given = self.standard_widths if widths is None else tuple(widths)
        if len(given) != len(self.standard_widths):
            raise UserError(f"{self.name}: widths are {len(self.standard_widths)} numbers, not {widths!r}")
        whole(self.name, **{f"widths[{i}]": w for i, w in enumerate(given)})
        whole(self.name, **{f"kernels[{i}]": k for i, k in enumerate(kernels)})
        channels = [divisible(w * width) for w in given]
        small = stem == "cifar"
        self.stem = nn.Sequential(
            conv_norm(input_channels, channels[0], 3, 1 if small else 2, self.activations[0]),
            MBConv(channels[0], channels[1], 3, expansion=1, stride=1, activation=self.activations[1], squeeze=False),
        )
        blocks: list[nn.Module] = []
        for stage, (stride, count) in enumerate(zip(self.strides, self.depths, strict=True)):
            stride = 1 if small and stage == 0 else stride  # noqa: PLW2901
            for i in range(depth if count is None else count):
                inputs = channels[stage + 2] if i else channels[stage + 1]
                shape = (inputs, channels[stage + 2], 1 if i else stride)
                made: dict[str, Callable[[], nn.Module]] = {
                    block_name(k, e): partial(self._block, shape, k, e, stage) for k in kernels for e in expansions
                }
                label = f"block_{len(blocks)}"
                blocks.append(LayerChoice(candidates(label, made | ({"zero": nn.Identity} if i else {})), label=label))
        self.blocks = nn.Sequential(*blocks)
        self.head = self._head(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1], classes)

    def _block(self, shape: tuple[int, int, int], kernel: int, expansion: float, stage: int) -> nn.Module:
        inputs, outputs, stride = shape
        activation, squeeze = self.activations[stage + 1], self.squeezed[stage]
        return MBConv(
            inputs, outputs, kernel, expansion=expansion, stride=stride, activation=activation, squeeze=squeeze
        )

    def _head(self, channels: list[int]) -> nn.Module:
        last = conv_norm(channels[-2], channels[-1], 1, 1, self.activations[-1])
        return nn.Sequential(last, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(images)))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From a list of block names (or {blocks: list}) to decisions. See `chain.block_decisions`."""
        given = notation["blocks"] if isinstance(notation, Mapping) else notation
        kernels, expansions = args.get("kernels", (3, 5, 7)), args.get("expansions") or cls.standard_expansions
        depth = args.get("depth", 4)
        names = [block_name(k, e) for k in kernels for e in expansions]
        counts = [depth if count is None else count for count in cls.depths]
        candidates = [[*names, "zero"] if i else names for count in counts for i in range(count)]
        return block_decisions(cls.name, given, candidates, {"skip": "zero", "identity": "zero"})


_MOBILE = "k5e3 k3e3 zero zero k7e3 k3e3 k5e3 k5e3 k7e6 k5e3 k5e3 k5e3 k5e6 k5e3 k5e3 k5e3 k7e6 k7e6 k7e3 k7e3 k7e6"
_GPU = "k5e3 zero zero zero k7e3 k3e3 zero zero k7e6 k5e3 zero zero k5e6 k3e3 k5e3 zero k7e6 k7e6 k7e6 k5e6 k7e6"
_CPU = "k3e6 k3e3 k3e3 k3e3 k3e6 k3e3 k3e3 k5e3 k3e6 k3e3 zero zero k5e6 k3e3 k3e3 k3e3 k5e6 k5e3 k5e3 k3e3 k5e6"

_PROXYLESS = {
    "ProxylessNAS_mobile": Published(_MOBILE.split(), "Cai 2019, for a mobile phone"),
    "ProxylessNAS_gpu": Published(
        _GPU.split(), "Cai 2019, for a GPU", {"widths": (40, 24, 32, 56, 112, 128, 256, 432, 1728)}
    ),
    "ProxylessNAS_cpu": Published(
        _CPU.split(), "Cai 2019, for a CPU", {"widths": (40, 24, 32, 48, 88, 104, 216, 360, 1432)}
    ),
}


class ProxylessNAS(MobileNetwork):
    __doc__ = f"""ProxylessNAS (Cai 2019, "Direct Neural Architecture Search on Target Task and Hardware", ICLR).

    21 blocks in six stages, kernel sizes 3, 5, 7 and expansions 3, 6. ProxylessNAS-mobile has 4,080,512 parameters and
    320,427,584 multiply-adds at 224 pixels. {MobileNetwork.__doc__}"""

    name = "proxylessnas"
    standard_widths = (32, 16, 32, 40, 80, 96, 192, 320, 1280)
    standard_expansions = (3, 6)
    strides = (2, 2, 2, 1, 2, 1)
    activations = (nn.ReLU6,) * 8
    squeezed = (False,) * 6
    depths = (None, None, None, None, None, 1)
    published: ClassVar[Mapping[str, Published]] = {
        **_PROXYLESS,
        **{name.replace("NAS", ""): entry for name, entry in _PROXYLESS.items()},
    }


_LARGE = """k3e4 k3e3 zero zero k5e3 k5e3 k5e3 zero k3e6 k3e2.5 k3e2.3 k3e2.3 k3e6 k3e6 zero zero k5e6 k5e6 k5e6 zero"""


class MobileNetV3(MobileNetwork):
    __doc__ = f"""MobileNetV3 (Howard 2019, "Searching for MobileNetV3") with chosen kernels, expansions and depths.

    20 blocks in five stages, kernel sizes 3, 5, 7 and expansions 3, 4, 6 (Cai 2020, "Once-for-All", section 3.1).
    {MobileNetwork.__doc__}"""

    name = "mobilenetv3"
    standard_widths = (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    standard_expansions = (3, 4, 6)
    strides = (2, 2, 2, 1, 2)
    activations = (nn.Hardswish, nn.ReLU, nn.ReLU, nn.Hardswish, nn.Hardswish, nn.Hardswish, nn.Hardswish)
    squeezed = (False, True, False, True, True)
    depths = (None,) * 5
    published: ClassVar[Mapping[str, Published]] = {
        "MobileNetV3_Large": Published(_LARGE.split(), "Howard 2019, table 1", {"expansions": (2.3, 2.5, 3, 4, 6)})
    }

    def _head(self, channels: list[int]) -> nn.Module:
        return nn.Sequential(
            conv_norm(channels[-3], channels[-2], 1, 1, nn.Hardswish),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels[-2], channels[-1]),
            nn.Hardswish(),
        )
