"""ProxylessNAS: binary gates, one path in a weight step and two in an architecture step, latency in the loss."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from archsearch.evaluate.options import Fraction, Rate
from archsearch.space import SearchSpace
from archsearch.supernet.options import again
from archsearch.supernet.trainer import Epoch
from archsearch_strategies.algorithms.differentiable import ParameterConfig, ParameterTrainer
from archsearch_strategies.algorithms.oneshot import OneShot
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PATH, _PAIR, _REINFORCE = 0x94D049BB133111EB, 0xBF58476D1CE4E5B9, 0x2545F4914F6CDD1D


class Estimator(StrEnum):
    """Of the architecture's gradient: through the gates of two paths, or from rewards."""

    GRADIENT = "gradient"
    REINFORCE = "reinforce"


class ProxylessNASConfig(ParameterConfig):
    """Defaults: Cai et al. 2019, section 4.2, and the authors' ImageNet script."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = again("epochs", 150)
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = again("batch_size", 256)
    learning_rate: Rate = again("learning_rate", 0.05)
    nesterov: bool = again("nesterov", True)
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = again("weight_decay", 4e-5)
    architecture_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = again("architecture_share", 0.1)
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=40, description="First epochs, in which paths are drawn evenly and weights alone are trained."
    )
    architecture_every: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=5, description="Weight steps between two architecture steps."
    )
    architecture_learning_rate: Rate = Field(default=1e-3, description="Of Adam on the architecture parameters.")
    estimator: Estimator = Field(default=Estimator.GRADIENT, description="gradient (two paths' gates) or reinforce.")
    reinforce_samples: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=10, description="Architectures that one step of reinforce is estimated from."
    )
    baseline_decay: Fraction = Field(default=0.99, description="Of the moving average of rewards in reinforce.")


class Baseline:
    """A moving average of rewards; the first reward begins it."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value: float | None = None

    def advantage(self, reward: float) -> float:
        """The reward above the average so far, which takes it in afterwards."""
        before = reward if self.value is None else self.value
        self.value = self.decay * before + (1 - self.decay) * reward
        return reward - before

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint."""
        return {}, {"value": self.value}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.value = state.get("value")


class ProxylessNASTrainer(ParameterTrainer[ProxylessNASConfig]):
    """Weights and gates in turn (Cai et al. 2019, sections 3.1 to 3.3)."""

    Config: ClassVar[type[ProxylessNASConfig]] = ProxylessNASConfig

    @classmethod
    def check(cls, space: SearchSpace, config: Any) -> list[str]:
        from archsearch.supernet.checks import undrawable

        return undrawable(space)

    def build(self) -> None:
        import torch

        from archsearch.supernet.costs import build_penalties
        from archsearch.supernet.mixable import check_mixable
        from archsearch.supernet.network import Supernet
        from archsearch.supernet.optimization import WeightOptimizer

        bench, config = self.bench, self.config
        self.supernet = Supernet(bench.model())
        if config.estimator is Estimator.GRADIENT:  # which mixes two candidates; reinforce follows single paths
            check_mixable(self.supernet, bench.architecture_batch(0).inputs[:2])
        bench.load_shared(self.supernet.model)
        self.alphas = self.fresh_parameters().to(bench.device)
        self.penalties = build_penalties(config, self.supernet, bench, self.alphas.probabilities())
        self.weights = WeightOptimizer(
            self.supernet.model.parameters(), config, config.epochs * bench.steps, bench.device
        )
        # No momentum: a choice whose candidates were not drawn must stay where it is.
        self.architect = torch.optim.Adam(
            self.alphas.parameters(), lr=config.architecture_learning_rate, betas=(0.0, 0.999)
        )
        self.baseline = Baseline(config.baseline_decay)
        bench.keep("model", self.supernet.model)
        bench.keep("alphas", self.alphas)
        bench.keep("weights", self.weights)
        bench.keep("architect", self.architect)
        bench.keep("baseline", self.baseline)

    def step(self, epoch: int, step: int) -> Tensor:
        bench, config = self.bench, self.config
        warm = epoch < config.warmup_epochs
        self.supernet.train()
        self._take_path(self._generator(_PATH), even=warm)
        loss = bench.loss(self.supernet.model, bench.weight_batch())
        self.weights.step(loss, bench.done)
        if not warm and bench.done % config.architecture_every == 0:
            if config.estimator is Estimator.GRADIENT:
                self.gate_step()
            else:
                self.reinforce_step()
        return loss

    def _generator(self, salt: int) -> torch.Generator:
        return self.bench.generator(salt, self.bench.done)

    def _take_path(self, generator: torch.Generator, *, even: bool = False) -> dict[str, int]:
        """Follow one path, drawn by the probabilities or evenly; gives the drawn position of every choice."""
        import torch

        from archsearch.supernet.network import Mixture

        drawn = {}
        with torch.no_grad():
            for name in self.alphas.choices:
                chances = self.alphas.probability(name).cpu()
                chances = (chances > 0).float() if even else chances
                drawn[name] = int(torch.multinomial(chances, 1, generator=generator))
        self.supernet.mix({name: Mixture((position,)) for name, position in drawn.items()})
        return drawn

    def gate_step(self) -> None:
        """Two paths a choice, of which one is open: the loss's gradient in the gates gives that in the parameters.

        With the pair's probabilities q = softmax of their two logits, dL/d(alpha_k) = sum over m of the pair of
        dL/d(gate_m) * q_m * (1[m = k] - q_k) (equation 4, on two paths as in section 3.2.1). All other logits, and the
        pair's share of the whole probability, stay.
        """
        import torch

        from archsearch.supernet.network import Mixture
        from archsearch.supernet.norms import frozen_statistics

        generator = self._generator(_PAIR)
        pairs: dict[str, tuple[int, ...]] = {}
        gates: dict[str, Tensor] = {}
        with torch.no_grad():
            for name in self.alphas.choices:
                chances = self.alphas.probability(name).cpu()
                count = min(2, int((chances > 0).sum()))  # a probability may have become 0 in float32
                pairs[name] = tuple(torch.multinomial(chances, count, generator=generator).tolist())
                share = chances[list(pairs[name])]
                opened = int(torch.multinomial(share / share.sum(), 1, generator=generator))
                gates[name] = torch.zeros(count, device=self.bench.device)
                gates[name][opened] = 1.0
        for gate in gates.values():
            gate.requires_grad_()
        self.supernet.mix({name: Mixture(pairs[name], gates[name]) for name in pairs})
        with frozen_statistics(self.supernet.model):
            loss = self.bench.loss(self.supernet.model, self.bench.architecture_batch())
        found = torch.autograd.grad(self.weights.scaled(loss), list(gates.values()), allow_unused=True)
        self._descend(pairs, dict(zip(gates, self.weights.unscaled(found), strict=True)))

    def _descend(self, pairs: dict[str, tuple[int, ...]], gates: dict[str, Tensor | None]) -> None:
        import torch

        self.architect.zero_grad(set_to_none=True)
        if self.penalties:
            self.penalties.loss(self.alphas.probabilities()).backward()  # type: ignore[no-untyped-call]
        before: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, pair in pairs.items():
                logits, at = self.alphas[name], list(pair)
                gradient = torch.zeros_like(logits)
                gate = gates[name]
                if gate is not None:
                    gradient[at] = gate_gradient(logits[at], gate)
                if logits.grad is not None:  # the penalty's
                    gradient[at] += logits.grad[at]
                logits.grad = gradient
                before[name] = logits[at].logsumexp(0)
            self.architect.step()
            for name, pair in pairs.items():
                logits, at = self.alphas[name], list(pair)
                logits[at] += before[name] - logits[at].logsumexp(0)

    def reinforce_step(self) -> None:
        """Descend -(reward - baseline) * grad log p, averaged over drawn paths (section 3.3.2)."""
        import torch

        from archsearch.supernet.norms import frozen_statistics

        config, generator = self.config, self._generator(_REINFORCE)
        batch = self.bench.architecture_batch()
        total = torch.zeros((), device=self.bench.device)
        for _ in range(config.reinforce_samples):
            drawn = self._take_path(generator)
            with torch.no_grad(), frozen_statistics(self.supernet.model):
                reward = -self.bench.mean(float(self.bench.loss(self.supernet.model, batch)))
                if self.penalties:
                    reward -= float(self.penalties.loss(self._certain(drawn)))
            chance = torch.stack([self.alphas.masked(name).log_softmax(0)[at] for name, at in drawn.items()]).sum()
            total = total - self.baseline.advantage(reward) * chance
        self.architect.zero_grad(set_to_none=True)
        (total / config.reinforce_samples).backward()  # type: ignore[no-untyped-call]
        self.architect.step()

    def _certain(self, drawn: dict[str, int]) -> dict[str, Tensor]:
        import torch

        found = {}
        for name, at in drawn.items():
            found[name] = torch.zeros(len(self.alphas.choices[name].options), device=self.bench.device)
            found[name][at] = 1.0
        return found

    def end_epoch(self, epoch: int) -> Epoch:
        return self._path_epoch()


def gate_gradient(logits: Tensor, gates: Tensor) -> Tensor:
    """The gradient in a pair's logits, (2,), from the loss's gradient in its two gates, (2,)."""
    share = logits.softmax(0)
    return share * (gates - (gates * share).sum())


class ProxylessNAS(OneShot[ProxylessNASConfig]):
    """ProxylessNAS (Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware",
    ICLR 2019)."""

    Config: ClassVar[type[StrategyConfig]] = ProxylessNASConfig
    Trainer = ProxylessNASTrainer
    trainer = "proxylessnas"
