"""A Gaussian process over feature vectors, in plain numpy."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from archsearch_strategies.algorithms.features import Matrix

Vector = NDArray[np.float64]

_STEPS = 8  # of Adam on the marginal likelihood; scales are carried from fit to fit, so few are needed
_RATE = 0.15
_JITTER = 1e-6
_NOISE = -4.0  # prior mean of the logarithm of the noise's share of the variance
_DECAY = 2.0  # prior mean of the weights: the kernel of two random architectures is about 1 / (1 + 2)
_NORMAL = NormalDist()


class GaussianProcess:
    """Regression with the kernel s² / (1 + Σ w_g·d_g), d_g the squared distance within feature group g.

    This is the rational quadratic kernel with α = 1, a mixture of squared exponentials of all length scales: neighbours
    inform most, and distant architectures still tell which decisions are good. The weights w (automatic relevance
    determination) and the noise maximise the marginal likelihood times log-normal priors; s² is profiled out
    (Rasmussen and Williams, "Gaussian processes for machine learning", 2006, sections 2.2, 4.2.1 and 5.4.1).

    Args:
        features: (n, columns).
        targets: n values with mean 0.
        groups: of each column, its group.
        start: logarithms of the weights and of the noise to begin from, `scales` of an earlier fit; empty: the prior.
        learn: improve the scales; otherwise they are taken as they are.
    """

    def __init__(
        self, features: Matrix, targets: Vector, groups: NDArray[np.intp], start: list[float], *, learn: bool = True
    ) -> None:
        self._groups = groups
        self._features = features
        self._targets = targets
        self._members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
        self._prior = np.append(np.full(len(self._members), np.log(_DECAY)), _NOISE)
        self.scales: Vector = np.array(start) if start else self._prior.copy()
        if learn or not start:
            self._fit(np.stack([_squared(features[:, columns], features[:, columns]) for columns in self._members]))
        self._factorise()

    def _fit(self, distances: NDArray[np.float64]) -> None:
        n = len(self._targets)
        mean, square = np.zeros_like(self.scales), np.zeros_like(self.scales)
        for step in range(1, _STEPS + 1):
            weights, noise = np.exp(self.scales[:-1]), float(np.exp(self.scales[-1]))
            signal = 1.0 / (1.0 + np.tensordot(weights, distances, 1))
            inverse = _inverse(signal, noise)
            alpha = inverse @ self._targets
            # Half the derivative of n·ln(yᵀK⁻¹y) + ln|K| with respect to K.
            slope = 0.5 * (inverse - n / float(self._targets @ alpha) * np.outer(alpha, alpha))
            gradient = np.empty_like(self.scales)
            gradient[:-1] = -np.tensordot(distances, slope * signal**2, 2) * weights
            gradient[-1] = np.trace(slope) * noise
            gradient += (self.scales - self._prior) / np.append(np.ones(len(weights)), 2.25)
            mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
            self.scales = self.scales - _RATE * (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)

    def _factorise(self) -> None:
        self._inverse = _inverse(self._kernel(self._features, self._features), float(np.exp(self.scales[-1])))
        self._alpha = self._inverse @ self._targets
        self._variance = float(self._targets @ self._alpha) / len(self._targets)

    def _kernel(self, a: Matrix, b: Matrix) -> Matrix:
        scale = np.sqrt(np.exp(self.scales[:-1])[self._groups])
        return np.asarray(1.0 / (1.0 + _squared(a * scale, b * scale)))

    def mean(self, features: Matrix) -> Vector:
        """The posterior mean at each row of `features`."""
        return np.asarray(self._kernel(features, self._features) @ self._alpha)

    def believe(self, features: Matrix) -> None:
        """Take the means at `features` for observations: lowers the variance there and moves no mean (much).

        Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize optimization" (2010).
        """
        if not len(features):
            return
        variance = self._variance
        self._targets = np.append(self._targets, self.mean(features))
        self._features = np.concatenate([self._features, features])
        self._factorise()
        self._variance = variance

    def posterior(self, features: Matrix) -> tuple[Vector, Matrix]:
        """Mean (m) and covariance (m, m) of the function at `features`, without noise."""
        cross = self._kernel(features, self._features)
        covariance = self._kernel(features, features) - cross @ self._inverse @ cross.T
        return np.asarray(cross @ self._alpha), np.asarray(self._variance * covariance)


def _squared(a: Matrix, b: Matrix) -> Matrix:
    """Squared distances of all pairs of rows, (len(a), len(b))."""
    pairs = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(pairs, 0.0))


def _inverse(signal: Matrix, noise: float) -> Matrix:
    matrix = signal + (noise + _JITTER) * np.eye(len(signal))
    lower = np.linalg.inv(np.linalg.cholesky(matrix))
    return np.asarray(lower.T @ lower)


def normal_scores(values: Vector) -> Vector:
    """The values' ranks as quantiles of the standard normal distribution; equal values share their mean rank.

    So a few broken architectures far below the others do not hide the differences at the top.
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2.0)[place]  # from 0
    return np.array([_NORMAL.inv_cdf((rank + 0.5) / len(values)) for rank in ranks])


def expected_improvement(mean: Vector, spread: Vector, best: float) -> Vector:
    """E max(f − best, 0) of f normal with this mean and standard deviation (Jones, Schonlau and Welch 1998, eq. 15)."""
    distance = (mean - best) / spread
    below = np.array([_NORMAL.cdf(each) for each in distance])
    return np.asarray(spread * (distance * below + np.exp(-0.5 * distance**2) / math.sqrt(2.0 * math.pi)))
