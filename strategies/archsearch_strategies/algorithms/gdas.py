"""GDAS: one candidate at a time, drawn by the Gumbel-max trick, through which gradients flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from archsearch.space import SearchSpace
from archsearch.supernet.options import SupernetConfig, again
from archsearch.supernet.trainer import Epoch, SupernetTrainer
from archsearch_strategies.algorithms.differentiable import (
    Differentiable,
    DifferentiableConfig,
    DifferentiableTrainer,
)
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor

_DRAW = 0x8CB92BA72F3D8DD7
Temperature = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class GdasConfig(DifferentiableConfig):
    """Defaults: Dong and Yang 2019, section 4.2."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = again("epochs", 250)
    temperature: Temperature = Field(default=10.0, description="Of the Gumbel softmax in the first epoch.")
    final_temperature: Temperature = Field(default=0.1, description="In the last one; linear between.")


class GdasTrainer(DifferentiableTrainer[GdasConfig]):
    """Each step, of weights and of the architecture, draws one candidate a choice and computes that alone.

    With h the one-hot of ``argmax(log p + g)``, g Gumbel noise, and s the softmax of the same at a temperature, a
    choice gives ``(h + s - stop(s)) * outputs``: forward the drawn candidate, backward the gradient of s (equations 3
    to 5).
    """

    Config: ClassVar[type[SupernetConfig]] = GdasConfig
    compiles = False
    draws = 0  # within a step

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        from archsearch.supernet.checks import undrawable

        return undrawable(space)

    @classmethod
    def tuning(cls, config: GdasConfig) -> GdasConfig:
        return super().tuning(config).model_copy(update={"temperature": config.final_temperature})

    def step(self, epoch: int, step: int) -> Tensor:
        self.draws = 0
        return super().step(epoch, step)

    def temperature(self) -> float:
        """Of the present epoch."""
        part = self.bench.epoch / max(1, self.config.epochs - 1)
        return self.config.temperature + (self.config.final_temperature - self.config.temperature) * part

    def follow(self) -> None:
        from archsearch.supernet.network import Mixture

        generator = self.bench.generator(_DRAW, 16 * self.bench.done + self.draws)
        self.draws += 1
        mixtures = {}
        for name in self.alphas.choices:
            chosen, weight = drawn(self.alphas.masked(name), self.temperature(), generator)
            mixtures[name] = Mixture((chosen,), weight if weight.requires_grad else None)  # a factor of 1
        self.supernet.mix(mixtures)

    def end_epoch(self, epoch: int) -> Epoch:
        return self._path_epoch()


def drawn(logits: Tensor, temperature: float, generator: object) -> tuple[int, Tensor]:
    """A candidate drawn with the probabilities of `logits`, and its weight: (1,), of value 1, with the gradient of the
    Gumbel softmax.

    Args:
        logits: (number of candidates,), minus infinity for those that take no part.
        generator: a torch.Generator on the CPU.
    """
    import torch

    assert isinstance(generator, torch.Generator)  # noqa: S101 - not at the top, where torch is not imported
    noise = -torch.empty(len(logits)).exponential_(generator=generator).log().to(logits.device)
    perturbed = logits.log_softmax(0) + noise
    chosen = int(perturbed.argmax())
    soft = (perturbed / temperature).softmax(0)[chosen : chosen + 1]
    return chosen, 1 + soft - soft.detach()


class Gdas(Differentiable[GdasConfig]):
    """GDAS (Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019)."""

    Config: ClassVar[type[StrategyConfig]] = GdasConfig
    Trainer: ClassVar[type[SupernetTrainer[Any]]] = GdasTrainer
    trainer = "gdas"
