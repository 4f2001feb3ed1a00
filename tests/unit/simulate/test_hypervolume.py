"""The hypervolume of benchmarks/pareto.py against closed forms."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Hypervolume = Callable[[Any, Any], float]
ORIGIN = np.zeros(2)


@pytest.fixture(scope="module")
def hypervolume() -> Hypervolume:
    script = Path(__file__).parents[3] / "benchmarks" / "pareto.py"
    function: Hypervolume = runpy.run_path(str(script), run_name="pareto")["hypervolume"]
    return function


def test_one_point_spans_a_rectangle(hypervolume: Hypervolume) -> None:
    assert hypervolume(np.array([[3.0, 5.0]]), np.array([1.0, -2.0])) == 14.0


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_staircase_in_any_order_is_a_triangular_number(hypervolume: Hypervolume, steps: int) -> None:
    stairs = np.array([[i, steps + 1.0 - i] for i in range(1, steps + 1)])
    shuffled = np.random.default_rng(steps).permutation(stairs)
    assert hypervolume(shuffled, ORIGIN) == steps * (steps + 1) / 2
    moved = np.array([-7.0, 2.0])
    assert hypervolume(shuffled + moved, moved) == pytest.approx(steps * (steps + 1) / 2)


def test_points_on_a_hyperbola(hypervolume: Hypervolume) -> None:
    """Of (2^i, 2^-i), i = 0 … n, the first adds 1 and each other one (2^i - 2^(i-1))·2^-i = 1/2."""
    points = np.array([[2.0**i, 2.0**-i] for i in range(11)])
    assert hypervolume(points, ORIGIN) == pytest.approx(1.0 + 10 / 2)


def test_dominated_equal_and_outside_points_add_nothing(hypervolume: Hypervolume) -> None:
    front = np.array([[1.0, 3.0], [3.0, 1.0]])
    others = np.array([[1.0, 1.0], [1.0, 2.0], [3.0, 0.5], [1.0, 3.0], [9.0, -1.0], [0.0, 9.0]])
    assert hypervolume(front, ORIGIN) == hypervolume(np.concatenate([others, front]), ORIGIN) == 5.0
    assert hypervolume(others[-2:], ORIGIN) == hypervolume(np.empty((0, 2)), ORIGIN) == 0.0


def test_a_new_point_adds_what_it_alone_dominates(hypervolume: Hypervolume) -> None:
    front = np.array([[1.0, 3.0], [3.0, 1.0]])
    assert hypervolume(np.concatenate([front, [[2.0, 2.0]]]), ORIGIN) - hypervolume(front, ORIGIN) == 1.0
