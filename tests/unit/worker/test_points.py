"""Points on their way to the driver."""

from __future__ import annotations

import pytest

from archsearch.protocol import BODY_LIMIT_BYTES, POINT_LIMIT_BYTES, MetricPoint
from archsearch.worker import points
from archsearch.worker.points import PointQueue


def point(step: int, numbers: int = 0) -> MetricPoint:
    return MetricPoint(step=step, metrics={"loss": 0.5}, weights={"c": [0.12345] * numbers} if numbers else None)


def steps(found: list[MetricPoint]) -> list[int]:
    return [each.step for each in found]


def test_a_request_takes_what_fits_and_no_more_than_a_thousand() -> None:
    queue = PointQueue()
    for step in range(1500):
        queue.add(point(step))
    assert steps(queue.take(BODY_LIMIT_BYTES)) == list(range(1000))
    for step in range(10):
        queue.add(point(2000 + step, numbers=8000))
    assert not queue.fit(100_000)
    assert steps(queue.take(BODY_LIMIT_BYTES)) == [*range(1000, 1500), *range(2000, 2010)]
    for step in range(10):
        queue.add(point(step, numbers=8000))
    taken = queue.take(200_000)
    assert steps(taken) == [0, 1, 2]
    queue.put_back(taken)
    assert steps(queue.take(100)) == []
    queue.drop_oldest(200_000)
    assert steps(queue.take(200_000)) == [7, 8, 9]
    assert queue.fit(0)


def test_the_queue_is_bounded_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = PointQueue()
    for step in range(points.POINTS_KEPT + 5):
        queue.add(point(step))
    assert len(queue) == points.POINTS_KEPT
    monkeypatch.setattr(points, "BYTES_KEPT", 200_000)
    for step in range(10):
        queue.add(point(step, numbers=8000))
    assert steps(queue.take(BODY_LIMIT_BYTES)) == [7, 8, 9]
    with pytest.raises(ValueError, match=str(POINT_LIMIT_BYTES)):
        queue.add(MetricPoint(step=0, metrics={"x" * POINT_LIMIT_BYTES: 1.0}))
    assert len(queue) == 0
