"""Single Path One-Shot: paths sampled evenly train shared weights, then evolution among the paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from archsearch.errors import UserError
from archsearch.evaluate.options import NotNegative, Rate
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture, ArchitectureError, SearchSpace, SpaceError
from archsearch.spec.base import JsonObject, Model
from archsearch.supernet.options import Count, WeightSchedule
from archsearch.supernet.trainer import SupernetTrainer
from archsearch_strategies.algorithms.nsga2 import ranked
from archsearch_strategies.algorithms.oneshot import OneShot, OneShotConfig
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, StrategyConfig, Submission, Trial

if TYPE_CHECKING:
    from torch import Tensor

_DRAWS = 200  # paths that may lie outside the limit before one within is given up
_ATTEMPTS = 50  # children that may be known before a random architecture is taken instead
_BARREN = 20  # populations of infeasible architectures in a row that end the evolution
_EVOLUTION = (
    *("recalibrate", "population", "parents", "crossover", "mutation", "mutation_probability", "generations"),
    "initial",
)

Size = Annotated[int, Field(ge=0, le=100_000)]


class PathLimit(Model):
    """What the paths that the supernet is trained on may cost; spec.constraints hold for the candidates."""

    metric: Literal["params", "macs", "flops"] = Field(description="What is limited; flops are twice the macs.")
    min: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Least; absent: none."
    )
    max: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Most; absent: none."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a path limit needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no path lies between them")
        return self

    def holds(self, value: float) -> bool:
        """Whether a path of this cost may be trained."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class SposConfig(OneShotConfig):
    """Defaults: Guo et al. 2020, section 4 (ImageNet), and the authors' published search."""

    epochs: Count = Field(default=120, description="Passes over the training examples, one path a step.")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=1024, description="Examples of one step.")
    learning_rate: Rate = Field(default=0.5, description="Of the weights: SGD's highest rate.")
    minimum_learning_rate: NotNegative = Field(default=0.0, description="Where the schedule ends.")
    schedule: WeightSchedule = Field(default=WeightSchedule.LINEAR, description="cosine, linear or constant.")
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=4e-5, description="Of the weights."
    )
    clip_norm: NotNegative = Field(default=0.0, description="Largest norm of the weights' gradients; 0: not limited.")
    architecture_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.0, description="Part of the training examples that is left out: candidates are validated elsewhere."
    )
    path_limit: PathLimit | None = Field(
        default=None, description="Sample only paths within a cost; absent: every path is as likely as each other."
    )
    population: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=50, description="Candidates of one generation; the first are random."
    )
    parents: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10, description="The best so far, of which children are bred."
    )
    crossover: Size = Field(default=25, description="Children of a generation with two parents.")
    mutation: Size = Field(default=25, description="Children of a generation with one parent.")
    mutation_probability: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=0.1, description="Of each decision of a mutated child to be drawn anew."
    )
    generations: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=20, description="So many populations are judged in all; with 1 there is no evolution."
    )
    initial: Annotated[list[JsonObject], Field(max_length=10_000)] = Field(
        default_factory=list, description="Architectures that are judged first, in place of random ones."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.crossover + self.mutation > self.population:
            raise ValueError(
                f"crossover {self.crossover} and mutation {self.mutation} are more children than the population "
                f"{self.population} has; what they leave is filled with random architectures"
            )
        return self


class SposTrainer(SupernetTrainer[SposConfig]):
    """Each step trains one path, sampled evenly (Guo et al. 2020, section 3.2); the other weights stay as they are.

    The path follows from seed and step alone, so that there is nothing of it to keep.
    """

    Config: ClassVar[type[SposConfig]] = SposConfig

    def build(self) -> None:
        from archsearch.supernet.network import Supernet
        from archsearch.supernet.optimization import WeightOptimizer
        from archsearch.supernet.paths import PathCosts

        bench, config = self.bench, self.config
        self.supernet = Supernet(bench.model())
        bench.load_shared(self.supernet.model)
        self.weights = WeightOptimizer(
            self.supernet.model.parameters(), config, config.epochs * bench.steps, bench.device
        )
        bench.keep("model", self.supernet.model)
        bench.keep("weights", self.weights)
        if config.path_limit is not None:
            self._cost = PathCosts(self.supernet, config.path_limit.metric, bench.inputs, device=bench.device)
            self.path(0)  # a limit that nothing keeps is told now

    def step(self, epoch: int, step: int) -> Tensor:
        self.supernet.train()
        self.supernet.take(self.path(self.bench.done))
        loss = self.bench.loss(self.supernet.model, self.bench.weight_batch())
        self.weights.step(loss, self.bench.done)
        return loss

    def path(self, number: int) -> Architecture:
        """The architecture that step `number` trains: every decision uniform, under the limit by rejection.

        Raises:
            UserError: no path keeps the limit.
        """
        rng, limit = self.bench.rng(f"path {number}"), self.config.path_limit
        if limit is None:
            return self.supernet.space.sample(rng)
        costs = []
        for _ in range(_DRAWS):
            path = self.supernet.space.sample(rng)
            costs.append(self._cost(path))
            if limit.holds(costs[-1]):
                return path
        raise UserError(
            f"pathLimit on {limit.metric} (min {limit.min}, max {limit.max}): none of {_DRAWS} sampled paths keeps it, "
            f"they cost {min(costs):g} to {max(costs):g}; widen the limit"
        )


class Spos(OneShot[SposConfig]):
    """SPOS (Guo, Zhang, Mu, Heng, Liu, Wei and Sun, "Single Path One-Shot Neural Architecture Search with Uniform
    Sampling", ECCV 2020).

    A supernet trial (section 3.2), then evolution (algorithm 1) over inherit trials, each of which measures its path's
    normalization statistics anew (section 3.3). No generation waits for its last trial: a child is bred as soon as a
    worker is free, of the best that are known by then, so that the search is a function of the order of results.
    A candidate outside spec.constraints ends infeasible, at the price of counting it, and another takes its place;
    neither it nor a failed one becomes a parent. With several objectives the parents are those that few dominate and
    few resemble (as in NSGA-II).
    """

    Config: ClassVar[type[StrategyConfig]] = SposConfig
    Trainer = SposTrainer
    trainer = "spos"
    several_objectives: ClassVar[bool] = True

    def check(self, space: SearchSpace) -> list[str]:
        problems = super().check(space)
        if self.config.penalties:
            problems.append(
                "spos learns no architecture that penalties could act on: bound costs by spec.constraints, or name "
                "them in spec.objectives"
            )
        for number, architecture in enumerate(self.config.initial):
            try:
                space.validate(architecture)
            except ArchitectureError as error:
                problems.append(f"strategy.config.initial[{number}]: {error}")
        return problems

    async def search(self, run: Run) -> None:
        # The supernet is the same, and may be reused, whatever candidates are tried on it.
        defaults = {name: SposConfig.model_fields[name].get_default(call_default_factory=True) for name in _EVOLUTION}
        supernet = await self.train(run, **defaults)
        run.stage("evolution")
        evolution = _Evolution(self.config, run, self.inheritance(supernet))
        async for trial in run.steady(evolution.propose):
            evolution.learn(trial)


class _Evolution:
    """Who is tried next on a supernet's weights, and who may be a parent."""

    def __init__(self, config: SposConfig, run: Run, params: JsonObject) -> None:
        self.config, self._run, self._params = config, run, params
        self._unseen = Unseen(run, starts=config.population)
        self._given = [run.space.validate(each) for each in reversed(config.initial)]
        self._placed = 0  # candidates that count: those that ended infeasible were replaced
        self._barren = 0  # infeasible ones since the last that was not
        self.parents: list[Trial] = []

    def learn(self, trial: Trial) -> None:
        """Take a finished candidate's result."""
        if trial.state is TrialState.INFEASIBLE:
            self._placed -= 1
            self._barren += 1
            return
        self._barren = 0
        if not trial.ok:
            return
        self.parents.append(trial)
        if len(self.parents) > self.config.parents:
            self.parents.remove(self._worst())

    def propose(self) -> Submission | None:
        """The next candidate; None: enough were judged, or there are no more."""
        if self._placed >= self.config.population * self.config.generations or self._exhausted():
            return None
        architecture = self._next()
        if architecture is None:
            return None
        self._placed += 1
        return Submission(architecture, TrialKind.INHERIT, self._params)

    def _exhausted(self) -> bool:
        if self._barren < _BARREN * self.config.population:
            return False
        if not self.parents:
            raise UserError(
                f"none of the first {self._barren} candidates keeps spec.constraints: widen them, or take another space"
            )
        return True

    def _next(self) -> Architecture | None:
        while self._given:
            if self._unseen.take(given := self._given.pop()):
                return given
        generation, place = divmod(self._placed, self.config.population)
        if generation and self.parents:
            if place < self.config.mutation:
                return self._new(self._mutated) or self._unseen.draw()
            if place < self.config.mutation + self.config.crossover and len(self.parents) > 1:
                return self._new(self._crossed) or self._unseen.draw()
        return self._unseen.draw()

    def _new(self, breed: Any) -> Architecture | None:
        for _ in range(_ATTEMPTS):
            try:
                child: Architecture = breed()
            except (ArchitectureError, SpaceError):  # it breaks a constraint of the space
                continue
            if self._unseen.take(child):
                return child
        return None

    def _mutated(self) -> Architecture:
        rng, parent = self._run.rng, _architecture(self._run.rng.choice(self.parents))
        return self._run.space.validate(
            {
                choice.name: parent[choice.name]
                if choice.name in parent and rng.random() >= self.config.mutation_probability
                else choice.sample(rng)
                for choice in self._run.space
            }
        )

    def _crossed(self) -> Architecture:
        mother, father = self._run.rng.sample(self.parents, 2)
        return self._run.space.crossover(_architecture(mother), _architecture(father), self._run.rng)

    def _worst(self) -> Trial:
        if len(self._run.objectives) == 1:
            return min(self.parents, key=lambda trial: (trial.score, -trial.number))
        order = ranked([trial.values for trial in self.parents])
        worst = max(range(len(order)), key=lambda index: (order[index][0], -order[index][1], index))
        return self.parents[worst]


def _architecture(trial: Trial) -> Architecture:
    if trial.architecture is None:
        raise ValueError(f"trial {trial.number} has no architecture")
    return trial.architecture
