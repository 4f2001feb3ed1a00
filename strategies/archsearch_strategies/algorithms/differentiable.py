"""What DARTS and its variants share: weighted candidates, an architecture step beside each weight step, and a second
trial that chooses by perturbation where that is asked for."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from archsearch.evaluate.options import Rate
from archsearch.space import SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.trainer import Epoch, Found, SupernetTrainer
from archsearch_strategies.algorithms.oneshot import OneShot, OneShotConfig, found
from archsearch_strategies.strategy import Run, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.supernet.costs import Penalties
    from archsearch.supernet.network import Supernet
    from archsearch.supernet.parameters import ArchitectureParameters
    from archsearch.supernet.workbench import Batch


class Selection(StrEnum):
    """Of the architecture, when the supernet is trained."""

    MAGNITUDE = "magnitude"
    PERTURBATION = "perturbation"


class ParameterConfig(OneShotConfig):
    """Options of all algorithms that learn probabilities of a choice's options."""

    priors: dict[str, dict[str, Annotated[float, Field(ge=0, le=1)]]] = Field(
        default_factory=dict,
        max_length=1024,
        description="Probabilities to begin with, by choice and option, in place of equal ones; a choice's sum to 1.",
    )


class DifferentiableConfig(ParameterConfig):
    """Options of all algorithms that learn a mixture by gradient descent."""

    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="First epochs, in which weights alone are trained."
    )
    architecture_learning_rate: Rate = Field(default=3e-4, description="Of Adam on the architecture parameters.")
    architecture_weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=1e-3, description="Of Adam on the architecture parameters."
    )
    normalise_pools: bool = Field(
        default=True,
        description="Normalise the outputs of pooling candidates (Liu 2019, section 3). NAS-Bench-201's own searches "
        "do not.",
    )
    selection: Selection = Field(
        default=Selection.MAGNITUDE,
        description="magnitude: the likeliest candidates. perturbation: a second supernet trial keeps of each choice "
        "the candidate without which the supernet does worst (Wang 2021).",
    )
    tune_epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=10, description="With perturbation: epochs of training between two decisions."
    )
    tune_learning_rate: Rate | None = Field(
        default=None, description="With perturbation: highest rate of that training; absent: a tenth of learningRate."
    )

    @model_validator(mode="after")
    def _some_epoch_is_left(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmupEpochs ({self.warmup_epochs}) must be below epochs ({self.epochs}): no epoch would be left to "
                "learn the architecture in"
            )
        return self


C = TypeVar("C", bound=DifferentiableConfig)
P = TypeVar("P", bound=ParameterConfig)


class ParameterTrainer(SupernetTrainer[P]):
    """What trainers that learn architecture parameters have in common, once `build` has made these three."""

    supernet: Supernet
    alphas: ArchitectureParameters
    penalties: Penalties

    def fresh_parameters(self, *, inputs: bool = False) -> ArchitectureParameters:
        """The architecture parameters as a search begins with them, on the CPU.

        Args:
            inputs: the inputs of a cell's nodes have some of their own too.

        Raises:
            UserError: a prior names what the space has not, or is no distribution.
        """
        from archsearch.supernet.parameters import ArchitectureParameters

        seed, priors = self.bench.seed, self.config.priors
        return ArchitectureParameters(self.supernet.space, seed=seed, inputs=inputs, priors=priors)

    def finish(self) -> list[Found]:
        return [Found(self._derived(self.alphas.history()))]

    def _derived(self, history: dict[str, list[float]]) -> dict[str, Any]:
        from archsearch.supernet.parameters import derive

        return dict(derive(self.supernet.space, history))

    def _path_epoch(self) -> Epoch:
        """The epoch as the single path does that would be found now."""
        from archsearch.supernet.norms import batch_statistics

        history = self.alphas.history()
        derived = self._derived(history)
        expected = self.penalties.expectations(self.alphas.probabilities())
        with self.supernet.following(derived), batch_statistics(self.supernet.model):
            metrics = {**self.bench.validate(self.supernet.model), **expected}
        return Epoch(metrics, history, derived)


class DifferentiableTrainer(ParameterTrainer[C]):
    """An architecture step on held-out examples before each weight step (Liu et al. 2019, algorithm 1).

    Subclasses change the network (`make_supernet`), the parameters (`make_parameters`), what a forward pass mixes
    (`follow`) or the architecture's gradient (`architecture_gradients`).
    """

    Config: ClassVar[type[SupernetConfig]] = DifferentiableConfig
    compiles = True  # the same candidates take part in all steps

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        from archsearch.supernet.checks import unmixable

        return unmixable(space.choices)

    @classmethod
    def tuning(cls, config: C) -> C:
        """The options with which the trained supernet is trained further while its architecture is selected."""
        return config.model_copy(update={"warmup_epochs": 0})

    def build(self) -> None:
        import torch

        from archsearch.supernet.costs import build_penalties
        from archsearch.supernet.mixable import check_mixable
        from archsearch.supernet.norms import without_search_affine
        from archsearch.supernet.optimization import WeightOptimizer

        bench, config = self.bench, self.config
        self.supernet = self.make_supernet()
        check_mixable(self.supernet, bench.architecture_batch(0).inputs[:2])
        bench.load_shared(self.supernet.model)
        without_search_affine(self.supernet.model)
        self.alphas = self.make_parameters().to(bench.device)
        self.penalties = build_penalties(config, self.supernet, bench, self.alphas.probabilities())
        extra = self.more_modules()
        parameters = [p for module in (self.supernet.model, *extra.values()) for p in module.parameters()]
        self.weights = WeightOptimizer(parameters, config, config.epochs * bench.steps, bench.device)
        self.architect = torch.optim.Adam(
            self.alphas.parameters(),
            lr=config.architecture_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.architecture_weight_decay,
        )
        kept = {"model": self.supernet.model, "alphas": self.alphas, "weights": self.weights}
        for name, thing in {**kept, "architect": self.architect, **extra}.items():
            bench.keep(name, thing)
        if self.compiles:
            bench.compile(self.supernet)

    def make_supernet(self) -> Supernet:
        """The network, its choices led by it."""
        from archsearch.supernet.network import Supernet

        return Supernet(self.bench.model(), normalise_pools=self.config.normalise_pools)

    def make_parameters(self) -> ArchitectureParameters:
        """The architecture parameters, on the CPU."""
        return self.fresh_parameters()

    def more_modules(self) -> dict[str, Any]:
        """Modules beside the network, whose weights are trained with its own: by the name that checkpoints have."""
        return {}

    def step(self, epoch: int, step: int) -> Tensor:
        import torch

        self.supernet.train()
        if epoch >= self.config.warmup_epochs:
            self.architecture_step(self.bench.architecture_batch())
        with torch.no_grad():  # the architecture stays as it is
            self.follow()
        loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
        self.weights.step(loss, self.bench.done)
        return loss

    def architecture_step(self, batch: Batch) -> None:
        """Descend the held-out loss, and penalties, in the architecture parameters alone."""
        import torch

        parameters: list[Tensor] = list(self.alphas.parameters())
        gradients = self.architecture_gradients(batch, parameters)
        if self.penalties:
            extra = torch.autograd.grad(self.penalties.loss(self.alphas.probabilities()), parameters, allow_unused=True)
            gradients = [g if e is None else g + e for g, e in zip(gradients, extra, strict=True)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.architect.step()

    def architecture_gradients(self, batch: Batch, parameters: list[Tensor]) -> list[Tensor]:
        """Of the held-out loss at the present weights; the weights' own gradients are not computed."""
        import torch

        from archsearch.supernet.norms import frozen_statistics
        from archsearch.supernet.weights import without_gradients

        self.follow()
        constant = without_gradients(self.weights.parameters)
        with constant, frozen_statistics(self.supernet.model):  # statistics are the weights' examples' alone
            loss = self.bench.loss(self.supernet.model, batch)
        found = self.weights.unscaled(torch.autograd.grad(self.weights.scaled(loss), parameters, allow_unused=True))
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def follow(self) -> None:
        """Have the network mix all candidates by the present probabilities."""
        self.supernet.mix(self.mixtures())

    def mixtures(self) -> dict[str, Any]:
        """All candidates that are left of every choice, weighted by their probabilities."""
        from archsearch.supernet.network import Mixture
        from archsearch.supernet.parameters import mixture_weights

        return {
            name: Mixture(self.alphas.left(name), mixture_weights(self.alphas, name)) for name in self.alphas.choices
        }

    def end_epoch(self, epoch: int) -> Epoch:
        self.follow()
        history = self.alphas.history()
        expected = self.penalties.expectations(self.alphas.probabilities())
        return Epoch({**self.bench.validate(self.supernet.model), **expected}, history, self._derived(history))


class Differentiable(OneShot[C]):
    """A supernet trial; where perturbation selects, a second one that begins with it; then as `OneShot`."""

    async def search(self, run: Run) -> None:
        supernet = await self.train(run)
        if self.config.selection is Selection.PERTURBATION:
            supernet = await self.select(run, supernet)
        await self.inherit(run, supernet, found(supernet))

    async def select(self, run: Run, supernet: Trial) -> Trial:
        """The trial that chooses by perturbation, and fine-tunes the weights meanwhile."""
        from archsearch_strategies.algorithms.darts_pt import TRAINER, perturbation

        run.note("magnitude", {"architectures": [dict(architecture) for architecture in found(supernet)]})
        config = perturbation(self.trainer, self.config, run.space)
        return await self.train(run, stage="selection", begin_with=supernet, trainer=TRAINER, config=config.to_json())


def shared_options(config: SupernetConfig) -> JsonObject:
    """The options that all supernet trainings have, by their names in Python."""
    return {name: getattr(config, name) for name in SupernetConfig.model_fields}
