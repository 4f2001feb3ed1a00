"""TextNAS: ENAS on a space of layers over words."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from archsearch.evaluate.options import Rate
from archsearch.supernet.options import WeightSchedule, again
from archsearch.supernet.trainer import SupernetTrainer
from archsearch_strategies.algorithms.enas import Enas, EnasConfig, EnasTrainer
from archsearch_strategies.strategy import StrategyConfig

Count = Annotated[int, Field(ge=1, le=100_000)]


class TextNASConfig(EnasConfig):
    """Defaults: Wang et al. 2020, section 4.1, and the authors' script; what they do not name is ENAS's."""

    epochs: Count = again("epochs", 10)
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = again("batch_size", 128)
    learning_rate: Rate = again("learning_rate", 0.02)
    schedule: WeightSchedule = again("schedule", WeightSchedule.COSINE)


class TextNASTrainer(EnasTrainer):
    """ENAS's training under TextNAS's defaults."""

    Config: ClassVar[type[TextNASConfig]] = TextNASConfig


class TextNAS(Enas):
    """TextNAS (Wang et al., "TextNAS: A Neural Architecture Search Space Tailored for Text Representation", AAAI
    2020)."""

    Config: ClassVar[type[StrategyConfig]] = TextNASConfig
    Trainer: ClassVar[type[SupernetTrainer[Any]]] = TextNASTrainer
    trainer = "textnas"
