"""ENAS: a controller that proposes paths of shared weights, rewarded with their accuracy on held-out examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from archsearch.evaluate.options import Fraction, NotNegative, Rate
from archsearch.supernet.options import WeightSchedule, again
from archsearch.supernet.trainer import Epoch, Found, SupernetTrainer
from archsearch_strategies.algorithms.oneshot import OneShot, OneShotConfig
from archsearch_strategies.strategy import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.supernet.controller import Proposal

Count = Annotated[int, Field(ge=1, le=100_000)]
Positive = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
_PATH, _PROPOSAL, _ANSWER = 0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB


class EnasConfig(OneShotConfig):
    """Defaults: Pham et al. 2018, sections 3.2 and B, for whole networks (macro)."""

    epochs: Count = again("epochs", 310)
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = again("batch_size", 128)
    learning_rate: Rate = again("learning_rate", 0.05)
    schedule: WeightSchedule = again("schedule", WeightSchedule.RESTARTS)
    nesterov: bool = again("nesterov", True)
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = again("weight_decay", 1e-4)
    architecture_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = again("architecture_share", 0.1)
    controller_steps: Count = Field(default=50, description="Steps of the controller after each epoch of the weights.")
    controller_samples: Count = Field(default=20, description="Architectures that one step of it is estimated from.")
    controller_size: Count = Field(default=64, description="Width of the controller's LSTM.")
    controller_learning_rate: Rate = Field(default=3.5e-4, description="Of Adam on the controller.")
    entropy_weight: NotNegative = Field(default=1e-4, description="Of the proposals' entropy in the reward.")
    baseline_decay: Fraction = Field(default=0.99, description="Of the moving average of rewards.")
    temperature: Positive = Field(default=5.0, description="What the controller's logits are divided by.")
    tanh_constant: Positive = Field(default=1.5, description="Bound of the logits; 1.10 for cells in the paper.")
    skip_target: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.4, description="Wanted part of the free inputs (skip connections) that are taken."
    )
    skip_weight: NotNegative = Field(default=0.8, description="Of the divergence from skipTarget.")
    samples: Count = Field(default=10, description="Proposals of the trained controller, of which the best is taken.")


class EnasTrainer(SupernetTrainer[EnasConfig]):
    """Weights and controller in turn (Pham et al. 2018, section 2.2)."""

    Config: ClassVar[type[EnasConfig]] = EnasConfig

    def build(self) -> None:
        import torch

        from archsearch.supernet.controller import Controller
        from archsearch.supernet.network import Supernet
        from archsearch.supernet.optimization import WeightOptimizer
        from archsearch.supernet.paths import PathPenalties
        from archsearch_strategies.algorithms.proxylessnas import Baseline

        bench, config = self.bench, self.config
        self.supernet = Supernet(bench.model())
        bench.load_shared(self.supernet.model)
        self.controller = Controller(
            self.supernet.space,
            size=config.controller_size,
            temperature=config.temperature,
            tanh_constant=config.tanh_constant,
        ).to(bench.device)
        self.penalties = PathPenalties(config, self.supernet, bench)
        self.weights = WeightOptimizer(
            self.supernet.model.parameters(), config, config.epochs * bench.steps, bench.device
        )
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=config.controller_learning_rate)
        self.baseline = Baseline(config.baseline_decay)
        bench.keep("model", self.supernet.model)
        bench.keep("weights", self.weights)
        bench.keep("controller", self.controller)
        bench.keep("optimizer", self.optimizer)
        bench.keep("baseline", self.baseline)

    @property
    def steps(self) -> int:
        return self.bench.steps + self.config.controller_steps

    def step(self, epoch: int, step: int) -> Tensor | None:
        if step >= self.bench.steps:
            self.controller_step(epoch * self.config.controller_steps + step - self.bench.steps)
            return None
        return self.weight_step()

    def weight_step(self) -> Tensor:
        """Train the path of one proposal (the estimate of equation 1 with M = 1)."""
        import torch

        with torch.no_grad():
            proposal = self.controller.propose(self.bench.generator(_PATH, self.bench.done))
        self.supernet.take(proposal.architecture)
        self.supernet.train()
        loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
        self.weights.step(loss, self.bench.done)
        return loss

    def controller_step(self, number: int) -> None:
        """REINFORCE (Williams 1992) with a moving average of rewards as the baseline, on several proposals."""
        import torch

        batch = self.bench.architecture_batch(number)
        generator = self.bench.generator(_PROPOSAL, number)
        total = torch.zeros((), device=self.bench.device)
        for _ in range(self.config.controller_samples):
            proposal = self.controller.propose(generator)
            reward = self.reward(proposal, batch) + self.config.entropy_weight * float(proposal.entropy.detach())
            total = total - self.baseline.advantage(reward) * proposal.log_probability
            if proposal.skips is not None:
                total = total + self.config.skip_weight * skip_divergence(proposal.skips, self.config.skip_target)
        self.optimizer.zero_grad(set_to_none=True)
        (total / self.config.controller_samples).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.controller.parameters(), 5.0)
        self.optimizer.step()

    def reward(self, proposal: Proposal, batch: Any) -> float:
        """The accuracy (or, of tasks without, minus the loss) of a proposal on a batch, less the penalties."""
        from archsearch.supernet.norms import batch_statistics

        self.supernet.take(proposal.architecture)
        with batch_statistics(self.supernet.model):
            reward = self.bench.reward(self.supernet.model, batch)
        return reward - self.penalties.of(proposal.architecture)

    def end_epoch(self, epoch: int) -> Epoch:
        import torch

        from archsearch.supernet.norms import batch_statistics

        with torch.no_grad():
            proposals = [self.controller.propose(self.bench.generator(_ANSWER, i)) for i in range(4)]
            likeliest = self.controller.propose(self.bench.generator(_ANSWER, 0), greedy=True)
        metrics = {"baseline": self.baseline.value or 0.0}
        metrics["logProbability"] = sum(float(each.log_probability) for each in proposals) / len(proposals)
        self.supernet.take(likeliest.architecture)
        with batch_statistics(self.supernet.model):
            metrics |= self.bench.validate(self.supernet.model)
        return Epoch(metrics, {}, likeliest.architecture)

    def finish(self) -> list[Found]:
        """Proposals of the trained controller, judged on all validation examples: different ones, best first."""
        import torch

        from archsearch.supernet.norms import batch_statistics
        from archsearch.supernet.run import ranked

        found: dict[str, Found] = {}
        for i in range(self.config.samples):
            with torch.no_grad():
                proposal = self.controller.propose(self.bench.generator(_ANSWER, self.config.epochs + i))
            key = self.supernet.space.hash(proposal.architecture)
            if key not in found:
                self.supernet.take(proposal.architecture)
                with batch_statistics(self.supernet.model):
                    metrics = self.bench.validate(self.supernet.model)
                score = metrics.get("accuracy", -metrics["loss"]) - self.penalties.of(proposal.architecture)
                found[key] = Found(proposal.architecture, score)
        return ranked(list(found.values()))


def skip_divergence(chances: Tensor, target: float) -> Tensor:
    """The mean Kullback-Leibler divergence of independent chances from a wanted one (the authors' code)."""
    import math

    kept = chances.clamp(1e-6, 1 - 1e-6)
    return (kept * (kept.log() - math.log(target)) + (1 - kept) * ((1 - kept).log() - math.log(1 - target))).mean()


class Enas(OneShot[EnasConfig]):
    """ENAS (Pham, Guan, Zoph, Le and Dean, "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018)."""

    Config: ClassVar[type[StrategyConfig]] = EnasConfig
    Trainer: ClassVar[type[SupernetTrainer[Any]]] = EnasTrainer
    trainer = "enas"
