"""Architectures as numbers for a predictor, in any search space."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archsearch.space import Architecture, Categorical, Choice, Rng, SearchSpace

if TYPE_CHECKING:
    from archsearch_strategies.algorithms.proxies import Proxies

Matrix = NDArray[np.float64]

_REFERENCE = 128  # random architectures that give the features their scale
_PROXIES = 0.5  # mean squared distance of two random architectures in all proxies together
_NORMAL = NormalDist()
_GROUPS = 48  # scales that a predictor may learn; more columns than that share them


class Features:
    """The encoding of `SearchSpace.encode`, and how often each candidate occurs among choices that offer the same.

    The first is the adjacency encoding of White et al., "A study on encodings for neural architecture search" (NeurIPS
    2020), generalised to conditional and ordinal choices and subsets; the second tells how many of each operation there
    are, wherever they stand. Columns are scaled so that two random architectures have a squared
    distance of 1 in the mean, half of it (where there are counts) in the encoding.

    Attributes:
        groups: of each column, the index of the scale that it shares.
    """

    def __init__(self, space: SearchSpace, rng: Rng) -> None:
        self._space = space
        self._families = _families(space)
        self._scale = np.ones(len(space.columns) + sum(len(family[0].options) for family in self._families))
        self.groups = self._grouped()
        sample = self.of(space.sample(rng) for _ in range(_REFERENCE))
        spread = 2.0 * sample.var(axis=0)  # the mean squared distance of two independent draws
        encoding = len(space.columns)
        parts = [slice(0, encoding), slice(encoding, None)] if self._families else [slice(0, None)]
        for part in parts:
            total = float(spread[part].sum()) * len(parts)
            self._scale[part] = 1.0 / np.sqrt(total) if total > 0.0 else 1.0

    def of(self, architectures: Iterable[Architecture]) -> Matrix:
        """(architectures, features)."""
        rows = [self._space.encode(each) + self._counts(each) for each in architectures]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(self._scale)) * self._scale

    def _counts(self, architecture: Architecture) -> list[float]:
        counts: list[float] = []
        for family in self._families:
            taken = [architecture.get(choice.name) for choice in family]
            counts += [taken.count(option) / len(family) for option in family[0].options]
        return counts

    def _grouped(self) -> NDArray[np.intp]:
        """A group for each choice and each count; where they are too many, runs of them."""
        widths = [choice.width + bool(choice.when) for choice in self._space]
        widths += [1 for family in self._families for _ in family[0].options]
        groups = np.repeat(np.arange(len(widths)), widths)
        return groups if len(widths) <= _GROUPS else groups * _GROUPS // len(widths)


class ScoredFeatures:
    """`Features` and zero-cost proxies, each by its rank among the architectures of `reference`, as a normal quantile.

    Two random architectures have a mean squared distance of 1/2 in all proxies together. A proxy that gave no score
    counts as its lowest.
    """

    def __init__(self, features: Features, proxies: Proxies, reference: list[Architecture]) -> None:
        self._features, self._proxies = features, proxies
        self._sorted = [np.sort(column) for column in proxies.columns(reference)]
        new = features.groups.max() + 1 + np.arange(len(self._sorted))
        self.groups = np.concatenate([features.groups, new])

    def of(self, architectures: Iterable[Architecture]) -> Matrix:
        """(architectures, features)."""
        listed = list(architectures)
        scored = [
            [_quantile(known, value) for value in column]
            for known, column in zip(self._sorted, self._proxies.columns(listed), strict=True)
        ]
        scale = np.sqrt(_PROXIES / (2.0 * len(self._sorted)))
        columns = np.asarray(scored, dtype=np.float64).reshape(len(self._sorted), len(listed)).T * scale
        return np.concatenate([self._features.of(listed), columns], axis=1)


def _quantile(known: NDArray[np.float64], value: float) -> float:
    rank = (np.searchsorted(known, value) + np.searchsorted(known, value, side="right")) / 2.0
    return _NORMAL.inv_cdf(float(rank + 0.5) / (len(known) + 1))


def _families(space: SearchSpace) -> list[list[Choice]]:
    """Categorical choices that offer the same candidates, where there are at least two of them."""
    families: dict[object, list[Choice]] = {}
    for choice in space:
        if isinstance(choice, Categorical):
            families.setdefault(choice.options, []).append(choice)
    return [family for family in families.values() if len(family) > 1]
