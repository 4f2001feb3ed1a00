"""The work queue: each key is in it once, is worked on by one worker at a time, and waits longer after each failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait after the n-th failure in a row: first, 2 * first, 4 * first … at most `longest`."""

    first: float = 0.5
    longest: float = 120.0

    def seconds(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30))


class WorkQueue(Generic[Key]):
    """De-duplicating queue of keys. Single event loop, no threads.

    A key added while it is worked on is handed out once more afterwards, so no wake-up is lost. A delayed add never
    postpones an earlier one.
    """

    def __init__(self, backoff: Backoff | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._ready: dict[Key, float] = {}  # key: when it became ready
        self._order: asyncio.Queue[Key] = asyncio.Queue()
        self._active: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._timers: dict[Key, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Ask for `key` after `delay` seconds, or at once."""
        if delay > 0:
            self._add_later(key, delay)
            return
        self._cancel(key)
        if key in self._active:
            self._again.setdefault(key, self._clock())
        else:
            self._make_ready(key, self._clock())

    async def get(self) -> tuple[Key, float]:
        """The next key and the seconds that it waited. The caller must say `done` or `failed` for it."""
        key = await self._order.get()
        self._active.add(key)
        return key, self._clock() - self._ready.pop(key)

    def done(self, key: Key) -> None:
        """The work on `key` succeeded: its back-off is forgotten."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """The work on `key` failed: it comes again after a back-off (or `at_least` seconds), which is returned."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least, self._backoff.seconds(self._failures[key]))
        self._again.pop(key, None)
        self._release(key)
        self._add_later(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The thing is gone: no timer and no back-off of it stays."""
        self._cancel(key)
        self._failures.pop(key, None)

    def close(self) -> None:
        for key in list(self._timers):
            self._cancel(key)

    def _add_later(self, key: Key, delay: float) -> None:
        due = self._clock() + delay
        if key in self._ready or (key in self._timers and self._timers[key][0] <= due):
            return
        self._cancel(key)
        self._timers[key] = (due, asyncio.get_running_loop().call_later(delay, self._fire, key))

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _release(self, key: Key) -> None:
        self._active.discard(key)
        since = self._again.pop(key, None)
        if since is not None:
            self._make_ready(key, since)

    def _make_ready(self, key: Key, since: float) -> None:
        if key not in self._ready:
            self._ready[key] = since
            self._order.put_nowait(key)

    def _cancel(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer:
            timer[1].cancel()


class RateLimiter:
    """A token bucket: `rate` a second over time, `burst` at once. Waiters are served in order."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._tokens, self._at = float(burst), clock()

    def reserve(self) -> float:
        """Take a token; the seconds to wait before it may be used."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1.0
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    async def wait(self) -> None:
        delay = self.reserve()
        if delay:
            await asyncio.sleep(delay)
