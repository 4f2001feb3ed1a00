"""Failure classes: which attempt is tried again, and when."""

from __future__ import annotations

from collections.abc import Mapping

from archsearch.protocol import FailureClass
from archsearch.spec.pods import Retries


def may_retry(failure: FailureClass, earlier: Mapping[FailureClass, int], retries: Retries) -> bool:
    """Whether a trial is tried again. Each class has its own budget; preemption is never counted.

    Args:
        failure: how this attempt ended.
        earlier: retries of this trial so far, by class.
    """
    if failure is FailureClass.PREEMPTED:
        return True
    allowed = {
        FailureClass.INFRASTRUCTURE: retries.infrastructure,
        FailureClass.OUT_OF_MEMORY: retries.out_of_memory,
        FailureClass.TIMEOUT: retries.timeout,
        FailureClass.USER_ERROR: retries.user_error,
        FailureClass.BAD_METRIC: retries.bad_metric,
    }
    return earlier.get(failure, 0) < allowed[failure]


def delay_seconds(failure: FailureClass, earlier: Mapping[FailureClass, int]) -> float:
    """Seconds before the next attempt: infrastructure backs off up to a minute, the rest goes on at once."""
    if failure is not FailureClass.INFRASTRUCTURE:
        return 0.0
    return float(min(60, 2 ** min(6, earlier.get(failure, 0))))
