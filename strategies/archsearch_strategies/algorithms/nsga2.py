"""NSGA-II: several objectives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from archsearch.space import Architecture, Rng, SpaceError
from archsearch_strategies.algorithms.random import Unseen
from archsearch_strategies.strategy import Run, Strategy, StrategyConfig, Trial

_MUTATIONS = 20  # of a known child before a random architecture is taken instead

Values = NDArray[np.float64]  # (trials, objectives), larger is better


class NSGA2(Strategy["NSGA2.Config"]):
    """Evolution toward the Pareto front: breed from what few dominate and few resemble.

    Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II" (IEEE TEC 2002):
    non-dominated sorting (section III-A), crowding distance (III-B), binary tournaments by both. Steady state as in
    Durillo, Nebro, Luna and Alba, "On the effect of the steady-state selection scheme in multi-objective genetic
    algorithms" (EMO 2009): each result joins the population, which then loses its worst member, so that no worker waits
    for a generation. Feasible solutions dominate infeasible ones (Deb, section VI): what is infeasible or failed never
    becomes a parent. No architecture is tried twice. With one objective it is a genetic algorithm with truncation.
    Crossover and mutation are Deb's: 0.9, and one decision a child; the population is small, for trials that are dear.
    """

    several_objectives = True

    class Config(StrategyConfig):
        population: int = Field(default=20, ge=4, le=2000, description="Architectures that survive.")
        crossover: float = Field(default=0.9, ge=0.0, le=1.0, description="Probability that a child has two parents.")
        mutation: float = Field(
            default=1.0, ge=0.0, le=1.0, description="Probability of a change in a child that is new without it."
        )

    async def search(self, run: Run) -> None:
        unseen = Unseen(run, starts=self.config.population)
        alive: list[Trial] = []
        ranks: list[tuple[int, float]] = []

        def propose() -> Architecture | None:
            founding = len(alive) + run.outstanding < self.config.population
            child = None if founding or len(alive) < 2 else self._child(run, unseen, alive, ranks)
            if child is None:
                return unseen.draw()
            unseen.take(child)
            return child

        async for trial in run.steady(propose):
            if trial.ok:
                alive.append(trial)
                ranks = ranked([each.values for each in alive])
                if len(alive) > self.config.population:
                    worst = max(range(len(alive)), key=lambda index: (ranks[index][0], -ranks[index][1], index))
                    del alive[worst], ranks[worst]

    def _child(
        self, run: Run, unseen: Unseen, alive: list[Trial], ranks: list[tuple[int, float]]
    ) -> Architecture | None:
        """A new child, or None where mutations find none."""
        mother, father = (self._winner(run.rng, alive, ranks) for _ in range(2))
        try:
            child = run.space.crossover(mother, father, run.rng) if run.rng.random() < self.config.crossover else mother
            if run.rng.random() < self.config.mutation:
                child = run.space.mutate(child, run.rng)
            for _ in range(_MUTATIONS):
                if child not in unseen:
                    return child
                child = run.space.mutate(child, run.rng)
        except SpaceError:  # nothing can be changed, or no child keeps the constraints
            return None
        return None

    @staticmethod
    def _winner(rng: Rng, alive: list[Trial], ranks: list[tuple[int, float]]) -> Architecture:
        first, second = rng.sample(range(len(alive)), 2)
        better = min(first, second, key=lambda index: (ranks[index][0], -ranks[index][1]))
        architecture = alive[better].architecture
        if architecture is None:
            raise ValueError(f"trial {alive[better].number} has no architecture")
        return architecture


def ranked(values: list[tuple[float, ...]]) -> list[tuple[int, float]]:
    """Of each point the number of its front (0: not dominated) and its crowding distance there."""
    points = np.array(values, dtype=np.float64)
    at_least: NDArray[np.bool_] = np.all(points[:, None, :] >= points[None, :, :], axis=2)
    dominates = at_least & ~at_least.T
    front = np.full(len(points), -1)
    distance = np.zeros(len(points))
    left, number = np.ones(len(points), dtype=bool), 0
    while left.any():
        members = np.flatnonzero(left & ~dominates[left].any(axis=0))
        front[members] = number
        distance[members] = crowding(points[members])
        left[members] = False
        number += 1
    return list(zip(front.tolist(), distance.tolist(), strict=True))


def crowding(points: Values) -> Values:
    """Sum over the objectives of the distance between a point's neighbours, relative to the range; infinite at ends."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        extent = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if extent > 0.0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
    return distance
