from __future__ import annotations

import math

import pytest

from archsearch.space import Rng
from archsearch.space.rng import _log

# Fixed once: a change of these breaks the history of every recorded run.
INTEGERS = [764, 233, 325, 126, 239, 314, 90, 724]
RANDOM = 0.938369723361942
NORMAL = [0.5346064349163239, 0.19714829526519256]
STRING_WORD = 12525666817695257012
FORKED_WORD = 1666352413962951207
SAMPLED = [9, 5, 3, 7]


def test_sequence_never_changes() -> None:
    rng = Rng(42)
    assert [rng.integer(1000) for _ in range(8)] == INTEGERS
    assert rng.random() == RANDOM
    assert [rng.normal(), rng.normal()] == NORMAL
    assert Rng("42").word() == STRING_WORD
    assert Rng(42).fork("a").word() == FORKED_WORD
    assert Rng(7).sample(range(10), 4) == SAMPLED


def test_seeds_and_forks_are_independent() -> None:
    first = {seed: Rng(seed).word() for seed in (0, 1, -1, 2**70, "", "0", "1")}
    assert len(set(first.values())) == len(first)
    parent = Rng(3)
    before = parent.fork("x").word()
    parent.word()
    assert parent.fork("x").word() == before != parent.fork("y").word()


def test_integer_is_unbiased_and_in_range() -> None:
    rng = Rng(5)
    counts = [0] * 7
    for _ in range(21_000):
        counts[rng.integer(7)] += 1
    chi_squared = sum((count - 3000) ** 2 / 3000 for count in counts)
    assert chi_squared < 22.5  # the 0.1 % quantile at 6 degrees of freedom
    assert rng.integer(1) == 0
    huge = [rng.integer(10**30) for _ in range(200)]
    assert all(0 <= value < 10**30 for value in huge)
    assert max(huge) > 9 * 10**29


def test_integer_rejects_what_would_bias() -> None:
    # With n just above half the range almost every second word has to be thrown away.
    rng, n = Rng(1), 2**63 + 1
    assert sum(rng.integer(n) >= 2**62 for _ in range(2000)) == pytest.approx(1000, abs=120)


def test_shuffle_and_sample_are_permutations() -> None:
    rng, items = Rng(9), list(range(50))
    shuffled = items.copy()
    rng.shuffle(shuffled)
    assert shuffled != items
    assert sorted(shuffled) == items
    assert sorted(rng.sample(items, 50)) == items
    assert len(set(rng.sample(items, 20))) == 20


def test_normal_has_its_moments() -> None:
    rng = Rng(2)
    values = [rng.normal() for _ in range(20_000)]
    mean = sum(values) / len(values)
    assert abs(mean) < 0.03
    assert sum(v * v for v in values) / len(values) == pytest.approx(1.0, abs=0.04)
    assert sum(abs(v) < 1 for v in values) / len(values) == pytest.approx(0.6827, abs=0.015)


def test_own_logarithm_is_right() -> None:
    rng = Rng(4)
    for x in [1e-300, 0.5, 0.9999999, 1.0, *(rng.random() + 2**-60 for _ in range(500))]:
        assert _log(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-16)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        Rng(0).integer(0)
    with pytest.raises(ValueError, match="4 of 3"):
        Rng(0).sample([1, 2, 3], 4)
    with pytest.raises(TypeError, match="integer or a string"):
        Rng(1.5)  # type: ignore[arg-type]
