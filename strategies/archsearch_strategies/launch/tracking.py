"""What the launcher remembers of a Job, and how fast it may make new ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from archsearch_strategies.launch.base import Waiting


@dataclass(frozen=True)
class Timing:
    """Seconds, and how many Jobs may be made in one."""

    slow: float = 5.0  # a Job that is not ready for so long is looked at
    look: float = 2.0  # between two looks at pods; longer while nothing changes
    look_most: float = 15.0
    relist: float = 60.0  # a watch that hangs silently is found out after this
    gone: float = 15.0  # a pod whose node is silent, or that outstays its grace period, is given up
    retry: float = 1.0  # first wait after a refused request
    retry_most: float = 30.0
    rate: float = 10.0
    burst: int = 20


@dataclass
class TrackedJob:
    """One Job as last seen."""

    name: str
    since: float
    unready_since: float | None
    size: int = 1  # pods that run a trial together
    ready: bool = False  # all of them
    pods_ready: int = 0
    done_since: float | None = None  # the first of several pods that was done; it never comes back
    ever_ready: bool = False
    failed: int = 0
    condition: str = ""  # Complete or Failed once it is over
    suspended: bool = False
    look_at: float = 0.0
    waiting: Waiting | None = None
    reported: set[str] = field(default_factory=set)
    odd_since: dict[str, float] = field(default_factory=dict)  # by pod: terminating or out of touch since


class TokenBucket:
    """A token bucket: at most `rate` a second, `burst` at once."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._tokens, self._at = rate, float(burst), float(burst), now

    def take(self, wanted: int, now: float) -> int:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        return taken
