"""CDARTS: a search network and an evaluation network that teach each other in a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from archsearch.evaluate.options import NotNegative
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

    from archsearch.supernet.workbench import Batch

Positive = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class CdartsConfig(DifferentiableConfig):
    """Defaults: Yu et al. 2020, section 4.1, and NNI's script of its authors (32 epochs after 2 + 2 of warm-up)."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = again("epochs", 36)
    learning_rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = again("learning_rate", 0.2)
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=2,
        description="First epochs, in which the search network alone is trained; so many again train the evaluation "
        "network alone.",
    )
    loss_balance: Positive = Field(
        default=2.0, description="lambda: parts the cross-entropies, multiplies the distance."
    )
    distance_temperature: Positive = Field(default=2.0, description="Of the logits whose distance is taken.")
    penalty: NotNegative = Field(
        default=5.0, description="Of the probabilities of candidates without weights, in the first joint epoch."
    )
    penalty_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.2, description="Part of the joint epochs in which that penalty falls to 0."
    )

    @model_validator(mode="after")
    def _some_joint_epoch_is_left(self) -> Self:
        if 2 * self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"epochs ({self.epochs}) must be more than twice warmupEpochs ({self.warmup_epochs}): the two networks "
                "are trained alone for so many each"
            )
        return self


class CdartsTrainer(DifferentiableTrainer[CdartsConfig]):
    """Two networks with weights of their own: S mixes all candidates, E takes the architecture that S gives at present.

    Warm-up: S, then E, on the weights' examples. Then each step first descends on the architecture's examples
    ``(CE(S) + CE(E)) / lambda + lambda * T^2 * KL(E at T, S at T) + penalty`` in E's weights and the architecture
    parameters, then ``CE(S)`` on the weights' examples in S's weights (Yu et al. 2020, algorithm 1, equations 4 to 8).
    Networks with an auxiliary output take part in the distance with the mean of both logits.
    """

    Config: ClassVar[type[SupernetConfig]] = CdartsConfig

    def build(self) -> None:
        from archsearch.supernet.network import Supernet
        from archsearch.supernet.optimization import WeightOptimizer

        super().build()
        bench, config = self.bench, self.config
        self.evaluation = Supernet(bench.model())
        self.evaluation_weights = WeightOptimizer(
            self.evaluation.model.parameters(), config, config.epochs * bench.steps, bench.device
        )
        self.weightless = weightless(self.supernet)
        bench.keep("evaluation", self.evaluation.model)
        bench.keep("evaluationWeights", self.evaluation_weights)
        bench.take_over("evaluation")

    @classmethod
    def tuning(cls, config: CdartsConfig) -> CdartsConfig:
        return super().tuning(config).model_copy(update={"penalty": 0.0})

    def phase(self, epoch: int) -> str:
        """search, evaluation or joint."""
        warm = self.config.warmup_epochs
        return "search" if epoch < warm else "evaluation" if epoch < 2 * warm else "joint"

    def learns(self, epoch: int) -> bool:
        return self.phase(epoch) == "joint"

    def step(self, epoch: int, step: int) -> Tensor:
        import torch

        phase = self.phase(epoch)
        if phase == "evaluation":
            return self.evaluation_step()
        if phase == "joint":
            self.joint_step(self.bench.architecture_batch(), self.penalty_at(epoch))
        self.supernet.train()
        with torch.no_grad():  # the architecture stays as it is
            self.follow()
        loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
        self.weights.step(loss, self.bench.done)
        return loss

    def evaluation_step(self) -> Tensor:
        """Train E on the weights' examples."""
        self.discretise()
        loss = self.bench.loss(self.evaluation.model, self.bench.weight_batch())
        self.evaluation_weights.step(loss, self.bench.done)
        return loss

    def discretise(self) -> None:
        """Have E take the likeliest architecture."""
        self.evaluation.take(self._derived(self.alphas.history()))
        self.evaluation.train()

    def joint_step(self, batch: Batch, penalty: float) -> None:
        """Step E's weights and the architecture parameters; S's weights stay."""
        import torch

        from archsearch.supernet.norms import frozen_statistics
        from archsearch.supernet.weights import without_gradients

        self.discretise()
        self.supernet.train()
        self.follow()
        with without_gradients(self.weights.parameters), frozen_statistics(self.supernet.model):
            loss = self.joint_loss(batch, penalty)
        parameters = list(self.alphas.parameters())
        own = self.evaluation_weights
        own.zero()
        found = torch.autograd.grad(own.scaled(loss), [*parameters, *own.parameters], allow_unused=True)
        mixed = own.unscaled(found[: len(parameters)])
        for parameter, gradient in zip(
            [*parameters, *own.parameters], [*mixed, *found[len(parameters) :]], strict=True
        ):
            parameter.grad = gradient
        self.architect.step()
        own.apply(self.bench.done)

    def joint_loss(self, batch: Batch, penalty: float) -> Tensor:
        """See the class."""
        from archsearch.supernet.mixing import logits_of

        config, bench = self.config, self.bench
        with bench.autocast():
            search = bench.network(self.supernet.model)(batch.inputs)
            evaluation = self.evaluation.model(batch.inputs)
        main = [bench.task.loss(logits_of(out)[0].float(), batch.targets) for out in (search, evaluation)]
        apart = distance(logits_of(evaluation)[1].float(), logits_of(search)[1].float(), config.distance_temperature)
        loss = (main[0] + main[1]) / config.loss_balance + config.loss_balance * apart
        if penalty:
            loss = loss + penalty * self.weightless_share()
        return loss + self.penalties.loss(self.alphas.probabilities()) if self.penalties else loss

    def weightless_share(self) -> Tensor:
        """The mean probability of candidates without weights, over the choices that have such."""
        import torch

        shares = [self.alphas.probability(name)[list(at)].sum() for name, at in self.weightless.items()]
        return torch.stack(shares).mean() if shares else torch.zeros((), device=self.bench.device)

    def penalty_at(self, epoch: int) -> float:
        """The penalty's weight: from `penalty` in the first joint epoch in a line to 0."""
        joint = epoch - 2 * self.config.warmup_epochs
        length = (self.config.epochs - 2 * self.config.warmup_epochs) * self.config.penalty_share
        return self.config.penalty * max(0.0, 1 - joint / length)

    def end_epoch(self, epoch: int) -> Epoch:
        from archsearch.supernet.norms import batch_statistics

        found = super().end_epoch(epoch)
        if self.phase(epoch) == "search":
            return found
        self.discretise()
        with batch_statistics(self.evaluation.model):
            metrics = self.bench.validate(self.evaluation.model)
        renamed = {f"evaluation{name[0].upper()}{name[1:]}": value for name, value in metrics.items()}
        return Epoch({**found.metrics, **renamed}, found.probabilities, found.architecture)


def weightless(supernet: Any) -> dict[str, tuple[int, ...]]:
    """Positions of the candidates without parameters, by layer choice; choices without such are left out."""
    found = {}
    for name, places in supernet.layers.items():
        at = tuple(i for i in range(len(places[0])) if not any(True for _ in places[0][i].parameters()))
        if at and len(at) < len(places[0]):
            found[name] = at
    return found


def distance(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` (Hinton 2015), mean over examples; classes last."""
    from torch.nn import functional

    wanted, given = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    apart = functional.kl_div(given.flatten(0, -2), wanted.flatten(0, -2), reduction="batchmean", log_target=True)
    return temperature**2 * apart


class Cdarts(Differentiable[CdartsConfig]):
    """CDARTS (Yu, Peng, Li, Yan and Fu, "Cyclic Differentiable Architecture Search", 2020)."""

    Config: ClassVar[type[StrategyConfig]] = CdartsConfig
    Trainer: ClassVar[type[SupernetTrainer[Any]]] = CdartsTrainer
    trainer = "cdarts"
