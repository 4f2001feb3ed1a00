"""Proximal policy optimization."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from archsearch.protocol import FailureClass, TrialState
from archsearch.space import Architecture, ArchitectureError, Rng, SearchSpace, SpaceError
from archsearch_strategies.algorithms.random import Unseen, starting_points
from archsearch_strategies.algorithms.slots import Slots
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

if TYPE_CHECKING:
    from archsearch_strategies.algorithms.policy import Learner

_DRAWS = 10  # of the policy for one new architecture, before a mutation of a known one
_MUTATIONS = 50


class PPO(Strategy["PPO.Config"]):
    """Learn a policy that writes architectures decision by decision, rewarded at the end.

    Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms" (arXiv 1707.06347), with
    the clipped objective (section 3) and generalised advantage estimation; an action is a decision, an episode an
    architecture, and one LSTM gives the policy and the value, as in Zoph and Le, "Neural architecture search with
    reinforcement learning" (ICLR 2017). The reward is a result's rank among all so far, in [0, 1], so that
    the metric's unit does not matter. No architecture is tried twice: known ones are drawn again. Steady state: an
    update runs when enough results are there, whichever policy proposed them, since their probabilities then are known.
    Prior points are the first episodes, as if the untrained policy had written them.
    """

    class Config(StrategyConfig):
        trials_per_update: int = Field(default=20, ge=2, le=10_000, description="Results between two updates.")
        epochs: int = Field(default=4, ge=1, le=100, description="Passes over the results in an update.")
        minibatch: int = Field(default=4, ge=1, le=10_000, description="Architectures in one gradient step.")
        learning_rate: float = Field(default=3e-4, gt=0.0, le=1.0, description="Adam's step size.")
        clip: float = Field(default=0.2, gt=0.0, lt=1.0, description="How far a probability ratio may leave 1.")
        value_coefficient: float = Field(default=0.5, ge=0.0, le=10.0, description="Weight of the value's loss.")
        entropy: float = Field(
            default=0.0, ge=0.0, le=1.0, description="Weight of the entropy bonus; 0.01 explores more."
        )
        gamma: float = Field(default=0.99, ge=0.0, le=1.0, description="Discount from one decision to the next.")
        gae_lambda: float = Field(default=0.95, ge=0.0, le=1.0, description="Of generalised advantage estimation.")
        max_gradient_norm: float = Field(default=0.5, gt=0.0, le=1000.0, description="Gradients are scaled down to it.")
        hidden: int = Field(default=64, ge=4, le=1024, description="Units of the LSTM.")

    def check(self, space: SearchSpace) -> list[str]:
        try:
            import torch  # noqa: F401
        except ImportError:
            return ["strategy ppo needs torch, which is not installed here; pip install 'archsearch[trial]'"]
        return []

    async def search(self, run: Run) -> None:
        await _Practice(self.config, run).search()


@dataclass(frozen=True)
class Episode:
    """An architecture, what the policy that proposed it thought of each slot's action, and its reward in [0, 1]."""

    architecture: Architecture
    log_probabilities: tuple[float, ...]
    reward: float = 0.0


class _Practice:
    def __init__(self, config: PPO.Config, run: Run) -> None:
        self._config, self._run = config, run
        self._unseen = Unseen(run)
        self._starts = starting_points(run, config.trials_per_update)
        self._slots = Slots(run.space)
        self._learner: Learner | None = None
        self._updates: list[list[Episode]] = []
        self._finished: list[tuple[Episode, float]] = []  # since the last update, with their scores
        self._scores: list[float] = []  # of all results, sorted
        self._proposals: deque[Episode] = deque()
        self._out: dict[int, Episode | None] = {}
        self._learned = 0
        self._draws = 0

    async def search(self) -> None:
        self._take(await self._run.memo(self._draw()))
        async for trial in self._run.steady(self._propose):
            self._learn(trial)
            if not self._waiting and len(self._proposals) < self._run.free:
                self._take(await self._run.memo(self._draw()))

    @property
    def _waiting(self) -> bool:
        """Results are there that were not learned yet."""
        return self._run.handed > self._learned

    def _propose(self) -> Architecture | None:
        episode = None
        while self._proposals and episode is None:
            episode = self._proposals.popleft()
            episode = episode if self._unseen.take(episode.architecture) else None
        if episode is None and self._waiting:
            return None  # they are learned first
        architecture = self._unseen.draw() if episode is None else episode.architecture
        if architecture is not None:
            self._out[self._run.submitted + 1] = episode
        return architecture

    def _learn(self, trial: Trial) -> None:
        self._learned += 1
        episode = self._out.pop(trial.number)
        if trial.ok:
            insort(self._scores, trial.score)
        elif trial.state is not TrialState.INFEASIBLE and trial.failure is not FailureClass.OUT_OF_MEMORY:
            return  # this failure tells nothing about the architecture
        if episode is not None:
            self._finished.append((episode, trial.score))
        if len(self._finished) >= self._config.trials_per_update:
            self._updates.append([replace(each, reward=self._rank(score)) for each, score in self._finished])
            self._finished.clear()
            self._proposals.clear()  # the policy that proposed them is history

    def _rank(self, score: float) -> float:
        """The share of results that are worse, equal ones by half."""
        below, not_above = bisect_left(self._scores, score), bisect_right(self._scores, score)
        return (below + not_above) / (2 * max(len(self._scores), 1))

    def _take(self, answer: list[dict[str, Any]]) -> None:
        for each in answer:
            architecture = self._run.space.validate(each["architecture"])
            self._proposals.append(Episode(architecture, tuple(each["logProbabilities"])))

    def _draw(self) -> Callable[[], list[dict[str, Any]]]:
        """The computation of more proposals, by the policy after all updates so far."""
        self._draws += 1
        starts, self._starts = self._starts, []
        wanted = max(self._run.free, self._config.trials_per_update - len(self._finished)) - len(self._proposals)
        updates = len(self._updates)
        rng = self._run.rng.fork(f"draw {self._draws}")

        def compute() -> list[dict[str, Any]]:
            from archsearch_strategies.algorithms.policy import one_thread

            with one_thread():
                learner = self._current(updates)
                architectures = self._new(learner, wanted, rng, starts)
                known = learner.log_probabilities(architectures) if architectures else []
            pairs = zip(architectures, known, strict=True)
            return [{"architecture": a.to_json(), "logProbabilities": logs} for a, logs in pairs]

        return compute

    def _current(self, updates: int) -> Learner:
        """The learner after that many updates. After a restart it makes up for those that the ledger has."""
        from archsearch_strategies.algorithms.policy import Learner

        if self._learner is None:
            self._learner = Learner(self._config, self._slots, self._run.rng.fork("policy").integer(2**31))
        for number in range(self._learner.updates, updates):
            self._learner.update(self._updates[number], self._run.rng.fork(f"update {number}"))
        return self._learner

    def _new(self, learner: Learner, wanted: int, rng: Rng, starts: list[Architecture]) -> list[Architecture]:
        """New ones, each once: `starts`, then the policy's, and mutations of known ones where it finds too few."""
        found = {self._run.space.hash(each): each for each in starts[:wanted]}
        known: list[Architecture] = []
        for _ in range(_DRAWS):
            for decisions in learner.sample(wanted - len(found), rng):
                try:
                    self._sort(self._run.space.validate(decisions), found, known)
                except ArchitectureError:  # it breaks a constraint
                    continue
            if len(found) == wanted:
                break
        for _ in range(_MUTATIONS * (wanted - len(found)) if known else 0):
            try:
                self._sort(self._run.space.mutate(rng.choice(known), rng), found, known)
            except SpaceError:  # nothing can be changed here
                break
            if len(found) == wanted:
                break
        return list(found.values())

    def _sort(self, architecture: Architecture, found: dict[str, Architecture], known: list[Architecture]) -> None:
        digest = self._run.space.hash(architecture)
        if architecture in self._unseen or digest in found:
            known.append(architecture)
        else:
            found[digest] = architecture
