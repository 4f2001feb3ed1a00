"""DARTS: a mixture of all candidates, learned by gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from archsearch.space import SearchSpace
from archsearch.supernet.options import SupernetConfig
from archsearch_strategies.algorithms.differentiable import (
    Differentiable,
    DifferentiableConfig,
    DifferentiableTrainer,
)
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.supernet.workbench import Batch


class DartsConfig(DifferentiableConfig):
    """Defaults: Liu et al. 2019, section A.1 (CIFAR-10), first order."""

    order: Literal[1, 2] = Field(
        default=1,
        description="1: the architecture's gradient at the present weights. 2: after one step of theirs, at about "
        "three times the cost; the paper's better result (2.76 against 3.00 % test error).",
    )
    auxiliary_skip: bool = Field(
        default=False,
        description="DARTS-: beside each mixture that offers a skip connection one more, whose weight falls linearly "
        "from 1 to 0 (Chu 2021).",
    )


C = TypeVar("C", bound=DartsConfig)


class DartsTrainer(DifferentiableTrainer[C]):
    """Of first order (xi = 0), or of second with xi the weights' learning rate (Liu et al. 2019, section 2.3)."""

    Config: ClassVar[type[SupernetConfig]] = DartsConfig

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        problems = super().check(space, config)
        if getattr(config, "order", 1) == 2 and config.precision != "float32":
            problems.append(
                f"order 2 takes differences of gradients, which precision {config.precision.value} is too coarse for: "
                "use float32, or order 1"
            )
        return problems

    @classmethod
    def tuning(cls, config: C) -> C:
        return super().tuning(config).model_copy(update={"auxiliary_skip": False})

    def architecture_gradients(self, batch: Batch, parameters: list[Tensor]) -> list[Tensor]:
        if self.config.order == 1:
            return super().architecture_gradients(batch, parameters)
        return self.unrolled_gradients(batch, parameters)

    def unrolled_gradients(self, batch: Batch, parameters: list[Tensor]) -> list[Tensor]:
        """Through one step of the weights on their examples, as the optimizer would make it without clipping."""
        from archsearch.supernet.norms import frozen_statistics
        from archsearch.supernet.optimization import rate
        from archsearch.supernet.unrolled import VirtualStep, unrolled_gradients

        weights, config, bench = self.weights, self.config, self.bench
        own = bench.weight_batch()
        bench.context.settle()  # the weights move to and fro

        def loss(examples: Batch) -> Tensor:
            self.follow()
            return bench.loss(self.supernet.model, examples)

        step = VirtualStep(
            rate(config, bench.done, weights.total),
            config.momentum,
            config.weight_decay,
            [weights.optimizer.state.get(p, {}).get("momentum_buffer") for p in weights.parameters],
            config.nesterov,
        )
        with frozen_statistics(self.supernet.model):
            return unrolled_gradients(
                lambda: loss(own), lambda: loss(batch), list(weights.parameters), parameters, step
            )

    def more_modules(self) -> dict[str, Any]:
        return {"auxiliary": self._auxiliary_skips()} if self.config.auxiliary_skip else {}

    def _auxiliary_skips(self) -> nn.ModuleList:
        """A skip connection of its own at each place of a choice that offers one, its weights drawn anew."""
        import copy

        from torch import nn

        from archsearch.supernet.parameters import SKIPS

        found = nn.ModuleList()
        for places in self.supernet.layers.values():
            for place in places:
                for name in place.names:
                    if name not in SKIPS:
                        continue
                    skip = copy.deepcopy(place[name])
                    for module in skip.modules():
                        if callable(reset := getattr(module, "reset_parameters", None)):
                            reset()
                    found.append(skip)
                    place.register_forward_hook(
                        lambda _, args, output, skip=skip: output + self.auxiliary_weight() * skip(args[0])
                    )
                    break
        return found.to(self.bench.device)

    def auxiliary_weight(self) -> float:
        """Of the auxiliary skip connections at the present step."""
        return max(0.0, 1 - self.bench.done / self.weights.total)


class Darts(Differentiable[DartsConfig]):
    """DARTS (Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019)."""

    Config: ClassVar[type[StrategyConfig]] = DartsConfig
    Trainer = DartsTrainer
    trainer = "darts"
