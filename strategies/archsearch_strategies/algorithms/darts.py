"""DARTS: a mixture of all candidates, learned by gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from archsearch.evaluate.options import Rate
from archsearch.space import SearchSpace
from archsearch.supernet.trainer import Epoch, Found, SupernetTrainer
from archsearch_strategies.algorithms.oneshot import OneShot, OneShotConfig
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.supernet.workbench import Batch


class DartsConfig(OneShotConfig):
    """Defaults: Liu et al. 2019, section A.1 (CIFAR-10)."""

    architecture_learning_rate: Rate = Field(default=3e-4, description="Of Adam on the architecture parameters.")
    architecture_weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=1e-3, description="Of Adam on the architecture parameters."
    )


class DartsTrainer(SupernetTrainer[DartsConfig]):
    """First-order DARTS: an architecture step on held-out examples before each weight step (Liu et al. 2019,
    algorithm 1 with xi = 0)."""

    Config: ClassVar[type[DartsConfig]] = DartsConfig

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        from archsearch.supernet.checks import unmixable

        return unmixable(space.choices)

    def build(self) -> None:
        import torch

        from archsearch.supernet.network import Supernet
        from archsearch.supernet.norms import without_affine
        from archsearch.supernet.optimization import WeightOptimizer
        from archsearch.supernet.parameters import ArchitectureParameters

        bench, config = self.bench, self.config
        self.supernet = Supernet(bench.model(), normalise_pools=True)
        bench.load_shared(self.supernet.model)
        without_affine(choice for layers in self.supernet.layers.values() for choice in layers)
        self.alphas = ArchitectureParameters(self.supernet.space, seed=bench.seed).to(bench.device)
        self.weights = WeightOptimizer(
            self.supernet.model.parameters(), config, config.epochs * bench.steps, bench.device
        )
        self.architect = torch.optim.Adam(
            self.alphas.parameters(),
            lr=config.architecture_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.architecture_weight_decay,
        )
        bench.keep("model", self.supernet.model)
        bench.keep("alphas", self.alphas)
        bench.keep("weights", self.weights)
        bench.keep("architect", self.architect)

    def step(self, epoch: int, step: int) -> Tensor:
        self.supernet.model.train()
        self.architecture_step(self.bench.architecture_batch())
        self.follow()
        loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
        self.weights.step(loss, self.bench.done)
        return loss

    def architecture_step(self, batch: Batch) -> None:
        """Descend the held-out loss in the architecture parameters alone: the weights' gradients are not computed."""
        import torch

        self.follow()
        parameters = list(self.alphas.parameters())
        loss = self.bench.loss(self.supernet.model, batch)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.architect.step()

    def follow(self) -> None:
        """Have the network mix all candidates by the present probabilities."""
        from archsearch.supernet.network import Mixture

        self.supernet.mix(
            {
                name: Mixture(self.alphas.left(name), self.alphas.probability(name)[list(self.alphas.left(name))])
                for name in self.alphas.choices
            }
        )

    def end_epoch(self, epoch: int) -> Epoch:
        self.follow()
        history = self.alphas.history()
        return Epoch(self.bench.validate(self.supernet.model), history, self._derived(history))

    def finish(self) -> list[Found]:
        return [Found(self._derived(self.alphas.history()))]

    def _derived(self, history: dict[str, list[float]]) -> dict[str, Any]:
        from archsearch.supernet.parameters import derive

        return dict(derive(self.supernet.space, history))


class Darts(OneShot[DartsConfig]):
    """DARTS (Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019)."""

    Config: ClassVar[type[StrategyConfig]] = DartsConfig
    Trainer = DartsTrainer
    trainer = "darts"
