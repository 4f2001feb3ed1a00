"""Points of a learning curve on their way to the driver: bounded in memory, sent in bodies that it takes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

from archsearch.protocol import BODY_LIMIT_BYTES, POINT_LIMIT_BYTES, MetricPoint

POINTS_KEPT = 10_000
BYTES_KEPT = 64 * 1024 * 1024
POINTS_PER_REPORT = 1000
REPORT_BYTES = BODY_LIMIT_BYTES - 64 * 1024  # the rest is for the lease, names and braces


class PointQueue:
    """First in, first out; where the driver is away for long the oldest are dropped."""

    def __init__(self) -> None:
        self._points: deque[tuple[MetricPoint, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._points)

    def add(self, point: MetricPoint) -> None:
        """Put a point at the end.

        Raises:
            ValueError: it has more bytes than a point may have.
        """
        size = len(json.dumps(point.to_json(), separators=(",", ":"))) + 1
        if size > POINT_LIMIT_BYTES:
            raise ValueError(f"a point has {size} bytes as JSON, at most {POINT_LIMIT_BYTES} are taken")
        self._points.append((point, size))
        self._bytes += size
        while len(self._points) > POINTS_KEPT or self._bytes > BYTES_KEPT:
            self._pop()

    def take(self, limit: int) -> list[MetricPoint]:
        """The oldest points that make one request of at most `limit` bytes; they leave the queue."""
        taken: list[MetricPoint] = []
        while self._points and len(taken) < POINTS_PER_REPORT and self._points[0][1] <= limit:
            limit -= self._points[0][1]
            taken.append(self._pop())
        return taken

    def put_back(self, points: Sequence[MetricPoint]) -> None:
        """What was taken and not sent goes first again."""
        later, self._points, self._bytes = self._points, deque(), 0
        for point in (*points, *(point for point, _ in later)):
            self.add(point)

    def fit(self, limit: int) -> bool:
        """Whether one request of `limit` bytes takes all."""
        return len(self._points) <= POINTS_PER_REPORT and self._bytes <= max(0, limit)

    def drop_oldest(self, limit: int) -> None:
        """Drop the oldest until one request of `limit` bytes takes the rest."""
        while not self.fit(limit):
            self._pop()

    def _pop(self) -> MetricPoint:
        point, size = self._points.popleft()
        self._bytes -= size
        return point
