"""PC-DARTS: mixtures on a part of the channels, and edges with weights of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from archsearch.evaluate.options import NotNegative, Rate
from archsearch.supernet.options import SupernetConfig
from archsearch_strategies.algorithms.differentiable import (
    Differentiable,
    DifferentiableConfig,
    DifferentiableTrainer,
)
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    from archsearch.supernet.network import Supernet
    from archsearch.supernet.parameters import ArchitectureParameters


class PCDartsConfig(DifferentiableConfig):
    """Defaults: Xu et al. 2020, section 4.2 (CIFAR-10)."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=256, description="As above.")
    learning_rate: Rate = Field(default=0.1, description="As above.")
    minimum_learning_rate: NotNegative = Field(default=0.0, description="As above.")
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(default=15, description="As above.")
    architecture_learning_rate: Rate = Field(default=6e-4, description="As above.")
    partial_channels: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=4, description="K: one of K parts of the channels is mixed, the others pass by."
    )


class PCDartsTrainer(DifferentiableTrainer[PCDartsConfig]):
    """Partial channels with a shuffle (Xu et al. 2020, equation 1), and edge normalization (equation 2): the inputs of
    a cell's node are weighted by a softmax of parameters of their own, where they are chosen (not in NAS-Bench-201's
    cell, whose edges all stay)."""

    Config: ClassVar[type[SupernetConfig]] = PCDartsConfig

    def make_supernet(self) -> Supernet:
        from archsearch.supernet.partial import PartialChannels, take_parts

        supernet = super().make_supernet()
        if self.config.partial_channels > 1:
            take_parts(candidate for places in supernet.layers.values() for place in places for candidate in place)
            mixer = PartialChannels(self.config.partial_channels, supernet.activations)
            supernet.mixers = dict.fromkeys(supernet.layers, mixer)
        return supernet

    def make_parameters(self) -> ArchitectureParameters:
        return self.fresh_parameters(inputs=True)


class PCDarts(Differentiable[PCDartsConfig]):
    """PC-DARTS (Xu, Xie, Zhang, Chen, Qi, Tian and Xiong, "PC-DARTS: Partial Channel Connections for Memory-Efficient
    Architecture Search", ICLR 2020)."""

    Config: ClassVar[type[StrategyConfig]] = PCDartsConfig
    Trainer = PCDartsTrainer
    trainer = "pc-darts"
