"""P-DARTS: three supernets, each deeper than the one before and of fewer candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from archsearch.errors import UserError
from archsearch.evaluate.options import NotNegative, Rate
from archsearch.space import Categorical, SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.trainer import Found
from archsearch_strategies.algorithms.differentiable import (
    Differentiable,
    DifferentiableConfig,
    DifferentiableTrainer,
    Selection,
)
from archsearch_strategies.algorithms.oneshot import found
from archsearch_strategies.strategy import Run, StrategyConfig, Trial

if TYPE_CHECKING:
    from archsearch.supernet.network import Supernet
    from archsearch.supernet.parameters import ArchitectureParameters

DECAY = 0.2
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Candidates = Annotated[dict[str, list[str]], Field(max_length=4096)]


class StageConfig(DifferentiableConfig):
    """Options of one stage. Defaults: Chen et al. 2019, section 4.2.1."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(default=25, description="Of each stage.")
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = Field(default=10, description="Of each stage, as above.")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=96, description="As above.")
    minimum_learning_rate: NotNegative = Field(default=0.0, description="As above.")
    architecture_learning_rate: Rate = Field(default=6e-4, description="As above.")
    restricted_skips: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2, description="M: the final architecture has at most so many skip connections in its normal cell."
    )


class StageTrainerConfig(StageConfig):
    """What the strategy says of one stage."""

    candidates: Candidates = Field(default_factory=dict, description="Those left, by choice; absent: all.")
    skip_dropout: Share = Field(default=0.0, description="Of skip connections' outputs in the stage's first epoch.")
    last: bool = Field(default=True, description="Whether skip connections of the found architecture are restricted.")


class PDartsConfig(StageConfig):
    """Options of the whole search."""

    depths: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1, max_length=16)] = Field(
        default=[5, 11, 17], description="Of the supernet in each stage."
    )
    depth_argument: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        default="cells", description="The argument of the model space that gives the depth."
    )
    keep: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=16)] = Field(
        default=[5, 3], description="Candidates that a choice keeps after each stage but the last."
    )
    skip_dropouts: Annotated[list[Share], Field(min_length=1, max_length=16)] = Field(
        default=[0.0, 0.4, 0.7], description="Of skip connections' outputs at the beginning of each stage."
    )

    @model_validator(mode="after")
    def _one_a_stage(self) -> Self:
        stages = len(self.depths)
        if len(self.skip_dropouts) != stages or len(self.keep) != stages - 1:
            raise ValueError(
                f"depths names {stages} stages: skipDropouts must have {stages} numbers (it has "
                f"{len(self.skip_dropouts)}) and keep {stages - 1} (it has {len(self.keep)})"
            )
        return self


def kept(
    probabilities: Mapping[str, Mapping[str, float]], count: int, candidates: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The `count` likeliest candidates of each choice, in their order (section 3.2).

    Args:
        probabilities: by choice and candidate.
        candidates: those that there were, by choice.
    """
    found = {}
    for name, there in candidates.items():
        best = sorted(there, key=lambda each: -probabilities[name][each])[:count]
        found[name] = [each for each in there if each in best]
    return found


def dropout(initial: float, epoch: int, epochs: int, warmup: int) -> float:
    """Of skip connections in an epoch: falling on a line while weights alone learn, then by exp(-0.2) an epoch from the
    initial rate, as in the authors' script (section 3.3: "gradually decay")."""
    if epoch < warmup:
        return initial * (epochs - epoch - 1) / epochs
    return initial * math.exp(-DECAY * (epoch - warmup))


def normal_cell(names: Sequence[str]) -> set[str]:
    """The choices whose skip connections are counted: those of the normal cell, or all where no cell is named so."""
    return {name for name in names if name.startswith("normal/")} or set(names)


class StageTrainer(DifferentiableTrainer[StageTrainerConfig]):
    """One stage: first-order DARTS on the candidates left, with dropout on skip connections (sections 3.2 and 3.3).

    Architecture parameters begin anew, as in the authors' script; only what was dropped carries over.
    """

    Config: ClassVar[type[SupernetConfig]] = StageTrainerConfig

    def make_supernet(self) -> Supernet:
        from torch import nn
        from torch.nn import functional

        from archsearch.supernet.parameters import SKIPS

        supernet = super().make_supernet()
        for places in supernet.layers.values():
            for place in places:
                for name in place.names:
                    if name in SKIPS and isinstance(place[name], nn.Identity):
                        place[name].register_forward_hook(
                            lambda module, _, output: functional.dropout(output, self.dropout(), module.training)
                        )
        return supernet

    def dropout(self) -> float:
        """Of skip connections in the present epoch."""
        config = self.config
        return dropout(config.skip_dropout, self.bench.epoch, config.epochs, config.warmup_epochs)

    def make_parameters(self) -> ArchitectureParameters:
        parameters = super().make_parameters()
        for name, names in self.config.candidates.items():
            if name not in parameters:
                raise UserError(f"candidates are given for choice {name!r}, which the space does not have")
            options = parameters.choices[name].options
            if unknown := sorted(set(names) - set(options)):
                raise UserError(
                    f"choice {name!r} has no candidate {unknown[0]!r}; it has {', '.join(map(str, options))}"
                )
            parameters.restrict(name, [options.index(each) for each in names])
        return parameters

    def finish(self) -> list[Found]:
        history = self.alphas.history()
        if not self.config.last:
            return [Found(self._derived(history))]
        return [Found(self.restricted(history))]

    def restricted(self, history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """The likeliest architecture with at most M skip connections in its normal cell (section 3.3).

        The least likely skip connection that was taken is given up, its edge falls back on its next candidate, and the
        edges of its node compete anew; again, until M are left.
        """
        from archsearch.supernet.parameters import SKIPS, ZEROS

        values = {name: list(map(float, probabilities)) for name, probabilities in history.items()}
        options = {name: choice.options for name, choice in self.supernet.choices.items()}
        layers = [name for name in values if isinstance(self.supernet.choices[name], Categorical)]
        counted = normal_cell(layers)
        while True:
            derived = self._derived(values)
            taken = [name for name in derived if name in counted and derived[name] in SKIPS]
            if len(taken) <= self.config.restricted_skips:
                return derived
            free = [
                name
                for name in taken
                if any(
                    value > 0 and option not in (*SKIPS, *ZEROS)
                    for option, value in zip(options[name], values[name], strict=True)
                )
            ]
            if not free:
                return derived
            least = min(free, key=lambda name: values[name][options[name].index(derived[name])])
            values[least][options[least].index(derived[least])] = 0.0

    def notes(self) -> JsonObject:
        history = self.alphas.history()
        choices = self.supernet.choices
        return {
            "probabilities": {
                name: dict(zip(map(str, choices[name].options), values, strict=True))
                for name, values in history.items()
                if isinstance(choices[name], Categorical)
            }
        }


class PDarts(Differentiable[PDartsConfig]):
    """P-DARTS (Chen, Xie, Wu and Tian, "Progressive Differentiable Architecture Search: Bridging the Depth Gap between
    Search and Evaluation", ICCV 2019)."""

    Config: ClassVar[type[StrategyConfig]] = PDartsConfig
    Trainer = StageTrainer
    trainer = "pdarts"

    async def search(self, run: Run) -> None:
        config = self.config
        layers = [choice for choice in run.space.choices if isinstance(choice, Categorical)]
        candidates = {choice.name: [str(option) for option in choice.options] for choice in layers}
        for stage, depth in enumerate(config.depths):
            last = stage == len(config.depths) - 1
            trial = await self.stage(run, stage, candidates, depth, last)
            if not last:
                payload = trial.payload if isinstance(trial.payload, dict) else {}
                candidates = kept(payload["probabilities"], config.keep[stage], candidates)
        await self.inherit(run, trial, found(trial))

    async def stage(
        self, run: Run, number: int, candidates: Mapping[str, Sequence[str]], depth: int, last: bool
    ) -> Trial:
        """One stage's supernet trial."""
        own = {name: getattr(self.config, name) for name in StageConfig.model_fields}
        options = StageTrainerConfig.model_validate(
            {
                **own,
                "candidates": {name: list(each) for name, each in candidates.items()},
                "skip_dropout": self.config.skip_dropouts[number],
                "last": last,
            }
        )
        return await self.train(
            run,
            stage=f"stage-{number + 1}",
            config=options.to_json(),
            model_args={**self.config.model_args, self.config.depth_argument: depth},
        )

    def check(self, space: SearchSpace) -> list[str]:
        problems = super().check(space)
        if not any(isinstance(choice, Categorical) for choice in space.choices):
            problems.append("pdarts drops candidates of layer choices, and this space has none: take darts")
        if self.config.selection is Selection.PERTURBATION:
            problems.append("pdarts selects by itself: selection perturbation is an option of darts and pc-darts")
        return problems
