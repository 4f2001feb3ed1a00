"""Predictor-guided evolution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from archsearch.space import Architecture, Rng, SearchSpace, SpaceError
from archsearch_strategies.algorithms.features import Features, Matrix, ScoredFeatures
from archsearch_strategies.algorithms.gaussian import GaussianProcess, Vector, expected_improvement, normal_scores
from archsearch_strategies.algorithms.guided import Guided
from archsearch_strategies.algorithms.proxies import ProxyOptions, Use, allowing
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.algorithms.threads import one_blas_thread
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

_TWICE = 0.4  # probability that a mutation is followed by another one
_GROWTH = 1.05  # of the results until the model's scales are learned anew, the costly part of a fit
_IMPOSSIBLE = 1e3  # far below any target of the model
_RANDOM = 0.1  # share of random architectures among the candidates


class Acquisition(StrEnum):
    EXPECTED_IMPROVEMENT = "ExpectedImprovement"
    THOMPSON = "Thompson"


class Predictor(Strategy["Predictor.Config"]):
    """Mutate the best, predict the children with a model of all results, try the most promising.

    The family of White, Neiswanger and Savani, "BANANAS: Bayesian optimization with neural architectures for neural
    architecture search" (AAAI 2021; its independent Thompson sampling is `Thompson`), and Wei et al., "NPENAS: neural
    predictor guided evolution for neural architecture search" (TNNLS 2022). The predictor is a Gaussian process on the
    encoding (`features`, `gaussian`), on the ranks of the results: it learns from a few results and knows where it is
    unsure, as an ensemble of networks does from many. Steady state at any concurrency: what is being tried counts as if
    it had its predicted result. Where architectures turn out infeasible, or too large for memory, a second model learns
    which, and improvement counts times the probability of a result (Gardner et al., "Bayesian optimization with
    inequality constraints", ICML 2014); other failures tell nothing. A fit sees a bounded window: the best and the
    newest results.
    """

    class Config(StrategyConfig):
        initial: int = Field(default=10, ge=2, le=100_000, description="Random architectures before the first fit.")
        window: int = Field(
            default=300, ge=10, le=2000, description="Results a fit sees: the best half of it and the newest."
        )
        parents: int = Field(default=20, ge=1, le=1000, description="Best architectures that are mutated.")
        candidates: int = Field(default=300, ge=10, le=10_000, description="Architectures predicted for each proposal.")
        acquisition: Acquisition = Field(
            default=Acquisition.EXPECTED_IMPROVEMENT,
            description="What makes a candidate promising: ExpectedImprovement over the best, or a draw from its own "
            "predicted distribution (Thompson).",
        )
        explore: float = Field(
            default=0.02, ge=0.0, le=1.0, description="Probability of a random architecture instead of a predicted one."
        )

        proxies: ProxyOptions | None = Field(
            default=None,
            description="Zero-cost proxies that choose the initial architectures (use WarmStart) or that the model "
            "sees (Feature).",
        )
        _known_use = allowing(Use.WARM_START, Use.FEATURE)

        @model_validator(mode="after")
        def _bounded(self) -> Self:
            if self.initial > self.window:
                raise ValueError(f"initial is {self.initial}, more than window {self.window}: a fit must see them all")
            return self

    async def search(self, run: Run) -> None:
        await _Evolution(self.config, run).search()


class _Evolution(Guided):
    def __init__(self, config: Predictor.Config, run: Run) -> None:
        super().__init__(run, initial=config.initial, window=config.window, proxies=config.proxies)
        self._config = config
        self._features = Features(run.space, run.rng.fork("features"))
        self._scales: dict[str, list[float]] = {}
        self._scaled = 0  # results when the scales were learned
        self._candidates: list[Architecture] | None = None
        self._active: list[str] = []  # proxies that the scales belong to

    async def prepare(self) -> None:
        """For proxies as features: candidates for the fit, scored, and all that it learns from."""
        proxies, window = self.stock.proxies, self.history.window()
        self._candidates = None
        active = list(proxies.active) if proxies.used_for(Use.FEATURE) else []
        if active:
            known = [trial for trial in window if trial.ok]
            rng = self.run.rng.fork(f"candidates {self.fits}")
            count = proxies.options.candidates
            self._candidates = _candidates(self._config, self.run.space, rng, self.unseen, known, count)
            await proxies.score([*_architectures(window), *self.pending, *self._candidates])
            active = list(proxies.active)  # they are gone where no trial gave scores
        if active != self._active:
            self._active, self._scales, self._scaled = active, {}, 0

    def take(self, answer: dict[str, Any]) -> None:
        super().take(answer)
        self._scales = answer["scales"]

    def fit(self, wanted: int, pending: list[Architecture]) -> _Fit:
        learn = self.learned >= max(self._scaled + 1, self._scaled * _GROWTH)
        self._scaled = self.learned if learn else self._scaled
        return _Fit(
            config=self._config,
            space=self.run.space,
            features=self._scored(pending) or self._features,
            rng=self.run.rng.fork(f"fit {self.fits}"),
            unseen=self.unseen,
            window=self.history.window(),
            pending=pending,
            scales=self._scales,
            learn=learn,
            wanted=wanted,
            candidates=self._candidates,
        )

    def _scored(self, pending: list[Architecture]) -> ScoredFeatures | None:
        if self._candidates is None or not self._active:
            return None
        reference = [*_architectures(self.history.window()), *pending, *self._candidates]
        return ScoredFeatures(self._features, self.stock.proxies, reference)


@dataclass(frozen=True)
class _Fit:
    """One fit and its proposals: a pure computation, done once and recorded."""

    config: Predictor.Config
    space: SearchSpace
    features: Features | ScoredFeatures
    rng: Rng
    unseen: Unseen
    window: list[Trial]
    pending: list[Architecture]
    scales: dict[str, list[float]]
    learn: bool  # new scales
    wanted: int
    candidates: list[Architecture] | None  # None: to be drawn

    def __call__(self) -> dict[str, Any]:
        with one_blas_thread():
            return self._proposed()

    def _proposed(self) -> dict[str, Any]:
        known = [trial for trial in self.window if trial.ok]
        targets = normal_scores(np.array([trial.score for trial in known]))
        model = self._model(known, targets, "value")
        candidates = self.candidates
        if candidates is None:
            count = max(self.config.candidates, 4 * self.wanted)
            candidates = _candidates(self.config, self.space, self.rng, self.unseen, known, count)
        model.believe(self.features.of(self.pending))
        mean, covariance = model.posterior(self.features.of(candidates))
        scales = {"value": model.scales.tolist()}
        possible = np.ones(len(candidates))
        if len(known) < len(self.window):
            labels = np.array([float(trial.ok) for trial in self.window])
            judge = self._model(self.window, labels - labels.mean(), "possible")
            possible = np.clip(labels.mean() + judge.mean(self.features.of(candidates)), 0.01, 1.0)
            scales["possible"] = judge.scales.tolist()
        chosen = self._choose(mean, covariance, possible, float(targets.max()))
        return {"scales": scales, "proposals": [candidates[index].to_json() for index in chosen]}

    def _model(self, trials: list[Trial], targets: Vector, name: str) -> GaussianProcess:
        features = self.features.of(_architectures(trials))
        start = self.scales.get(name, [])
        return GaussianProcess(features, targets, self.features.groups, start, learn=self.learn)

    def _choose(self, mean: Vector, covariance: Matrix, possible: Vector, best: float) -> list[int]:
        """Candidates one by one; what is chosen counts as observed for the next."""
        chosen: list[int] = []
        open_ = np.ones(len(mean), dtype=bool)
        for _ in range(min(self.wanted, len(mean))):
            spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
            if self.rng.random() < self.config.explore:
                value = np.array([self.rng.random() for _ in mean])
            elif self.config.acquisition is Acquisition.THOMPSON:
                value = mean + spread * np.array([self.rng.normal() for _ in mean])
                value[np.array([self.rng.random() for _ in mean]) > possible] -= _IMPOSSIBLE
            else:
                value = possible * expected_improvement(mean, spread, best)
            index = int(np.argmax(np.where(open_, value, -np.inf)))
            chosen.append(index)
            open_[index] = False
            column = covariance[:, index]
            covariance = covariance - np.outer(column, column) / (column[index] + 1e-6)
        return chosen


def _candidates(
    config: Predictor.Config, space: SearchSpace, rng: Rng, unseen: Unseen, known: list[Trial], count: int
) -> list[Architecture]:
    """New architectures, each once, from `count` draws: mutations of the best, and some random ones."""
    found: dict[str, Architecture] = {}
    parents = _architectures(known[: config.parents])
    for _ in range(count):
        child = space.sample(rng) if rng.random() < _RANDOM else _child(space, rng, parents)
        if unseen.fresh(child):
            found[space.hash(child)] = child
    return list(found.values())


def _child(space: SearchSpace, rng: Rng, parents: list[Architecture]) -> Architecture:
    """One mutation or more of a parent; the square of a uniform number prefers the better ones."""
    child = parents[int(len(parents) * rng.random() ** 2)]
    try:
        child = space.mutate(child, rng)
        while rng.random() < _TWICE:
            child = space.mutate(child, rng)
    except SpaceError:  # nothing can be changed here: the parent itself, which is known
        pass
    return child


def _architectures(trials: list[Trial]) -> list[Architecture]:
    return [trial.architecture for trial in trials if trial.architecture is not None]
