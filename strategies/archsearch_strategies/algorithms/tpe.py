"""Tree-structured Parzen estimator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pydantic import Field, model_validator

from archsearch.space import (
    Architecture,
    ArchitectureError,
    Choice,
    Decision,
    Ordinal,
    Rng,
    SearchSpace,
    SpaceError,
    Subset,
)
from archsearch_strategies.algorithms.guided import Guided, scores
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

_ASKS = 4  # suggestions of a known or impossible architecture before the last possible one is mutated
_MUTATIONS = 50


class TPE(Strategy["TPE.Config"]):
    """Model good and bad architectures apart, and try what is likelier among the good.

    Bergstra, Bardenet, Bengio and Kégl, "Algorithms for hyper-parameter optimization" (NeurIPS 2011), section 4, by
    optuna's `TPESampler` (Watanabe 2023, arXiv 2304.11127, tells its details). Choices with conditions are asked for
    where they are active. Trials that are not finished count as bad, so that concurrent ones differ. A suggestion that
    is known already is replaced by a mutation of it. A fit sees a bounded window, the best and the newest results,
    since an ask costs more with every trial of the study.
    """

    class Config(StrategyConfig):
        initial: int = Field(default=10, ge=2, le=100_000, description="Random architectures before the first fit.")
        window: int = Field(
            default=300, ge=10, le=5000, description="Results a fit sees: the best half of it and the newest."
        )
        candidates: int = Field(
            default=24, ge=1, le=10_000, description="Draws from the good of which the best is taken."
        )
        multivariate: bool = Field(default=True, description="Model the choices together instead of one by one.")

        @model_validator(mode="after")
        def _bounded(self) -> Self:
            if self.initial > self.window:
                raise ValueError(f"initial is {self.initial}, more than window {self.window}: a fit must see them all")
            return self

    def check(self, space: SearchSpace) -> list[str]:
        try:
            import optuna  # noqa: F401
        except ImportError:
            return ["strategy tpe needs optuna, which is not installed here; pip install 'archsearch[tpe]'"]
        return []

    async def search(self, run: Run) -> None:
        await _Estimation(self.config, run).search()


class _Estimation(Guided):
    def __init__(self, config: TPE.Config, run: Run) -> None:
        super().__init__(run, initial=config.initial, window=config.window)
        self._config = config
        self._told: dict[str, Any] = {}

    def fit(self, wanted: int, pending: list[Architecture]) -> Callable[[], dict[str, Any]]:
        rng = self.run.rng.fork(f"fit {self.fits}")
        window = self.history.window()
        self._told = {trial.hash: self._told[trial.hash] for trial in window if trial.hash in self._told}
        return _Fit(self._config, self.run.space, rng, self.unseen, window, pending, wanted, self._told)


@dataclass(frozen=True)
class _Fit:
    """One study of the window and its suggestions: a pure computation, done once and recorded."""

    config: TPE.Config
    space: SearchSpace
    rng: Rng
    unseen: Unseen
    window: list[Trial]
    pending: list[Architecture]
    wanted: int
    told: dict[str, Any]  # by hash what optuna was told of an architecture before

    def __call__(self) -> dict[str, Any]:
        study = self._study()
        proposals: dict[str, Architecture] = {}
        for _ in range(self.wanted):
            architecture = self._new(study, proposals)
            if architecture is not None:
                proposals[self.space.hash(architecture)] = architecture
        return {"proposals": [each.to_json() for each in proposals.values()]}

    def _study(self) -> Any:
        import optuna
        from optuna.trial import TrialState, create_trial

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # options that optuna calls experimental
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=1,
                n_ei_candidates=self.config.candidates,
                multivariate=self.config.multivariate,
                group=self.config.multivariate and any(choice.when for choice in self.space),
                constant_liar=True,
                warn_independent_sampling=False,
                seed=self.rng.integer(2**31),
            )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial, value in zip(self.window, scores(self.window), strict=True):
            if trial.architecture is not None:
                known = self.told.get(trial.hash) or self.told.setdefault(trial.hash, self._known(trial.architecture))
                known.value = value
                study.add_trial(known)
        for architecture in self.pending:
            params, distributions = _params(self.space, architecture)
            study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
        return study

    def _known(self, architecture: Architecture) -> Any:
        from optuna.trial import create_trial

        params, distributions = _params(self.space, architecture)
        known = create_trial(params=params, distributions=distributions, value=0.0)
        known.__class__ = _known_class()
        return known

    def _new(self, study: Any, taken: Mapping[str, Architecture]) -> Architecture | None:
        suggested: Architecture | None = None
        for _ in range(_ASKS):
            try:
                suggested = self.space.validate(_suggest(self.space, study.ask()))
            except ArchitectureError:  # it breaks a constraint
                continue
            if self._fresh(suggested, taken):
                return suggested
        for _ in range(_MUTATIONS if suggested is not None else 0):
            try:
                suggested = self.space.mutate(suggested or {}, self.rng)
            except SpaceError:  # nothing can be changed here
                return None
            if self._fresh(suggested, taken):
                return suggested
        return None

    def _fresh(self, architecture: Architecture, taken: Mapping[str, Architecture]) -> bool:
        return architecture not in self.unseen and self.space.hash(architecture) not in taken


@cache
def _known_class() -> Any:
    """optuna's finished trial, of which a study's copy shares the parameters: copying them is most of a fit's time."""
    from optuna.trial import FrozenTrial

    class Known(FrozenTrial):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return copy(self)

    return Known


def _suggest(space: SearchSpace, trial: Any) -> dict[str, Decision]:
    """An architecture by define-by-run; the parameters are numbered, since names of choices need not be distinct so."""
    data: dict[str, Decision] = {}
    for number, choice in enumerate(space):
        if not choice.active(data):
            continue
        if isinstance(choice, Subset):
            keys = [_ask(trial, name, each) for name, each in _distributions(number, choice)]
            data[choice.name] = choice.decode([float(key) for key in keys])
        else:
            ((name, distribution),) = _distributions(number, choice)
            data[choice.name] = choice.options[_ask(trial, name, distribution)]
    return data


def _ask(trial: Any, name: str, distribution: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    return trial.suggest_float(name, distribution.low, distribution.high)


def _params(space: SearchSpace, architecture: Architecture) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that suggest this architecture, and their distributions."""
    params, distributions = dict[str, Any](), dict[str, Any]()
    for number, choice in enumerate(space):
        if choice.name not in architecture:
            continue
        decision = architecture[choice.name]
        values = choice.encode(decision) if isinstance(choice, Subset) else [choice.options.index(decision)]
        for (name, distribution), value in zip(_distributions(number, choice), values, strict=True):
            params[name] = value if isinstance(choice, Subset) and choice.choose is not None else int(value)
            distributions[name] = distribution
    return params, distributions


def _distributions(number: int, choice: Choice) -> list[tuple[str, Any]]:
    """A categorical index, an ordered one, or for a subset a yes or no an input, or (of fixed size) a rank each."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(choice, Ordinal):
        return [(str(number), IntDistribution(0, choice.count - 1))]
    if isinstance(choice, Subset):
        kind = CategoricalDistribution((0, 1)) if choice.choose is None else FloatDistribution(0.0, 1.0)
        return [(f"{number}.{index}", kind) for index in range(choice.width)]
    return [(str(number), CategoricalDistribution(tuple(range(choice.count))))]
