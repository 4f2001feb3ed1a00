"""What the end of a trial's process means where the process itself told no result."""

from __future__ import annotations

import os
import signal
from typing import Literal

from archsearch.protocol import FailureClass, Outcome, Resources, TrialState
from archsearch.worker.processes import Exit

MESSAGE_LENGTH = 16_000

Killed = Literal["", "timeout", "grace", "lost", "garbage"]  # why the supervisor killed it


def failed(failure: FailureClass, message: str, resources: Resources | None = None) -> Outcome:
    """A failure, its message cut to what a result may hold."""
    text = message[:MESSAGE_LENGTH]
    return Outcome(state=TrialState.FAILED, failure=failure, message=text, resources=resources or Resources())


def silent(ended: Exit | None, killed: Killed, final: dict[str, float] | None, timeout_seconds: int) -> Outcome:
    """The process ended and told nothing.

    Args:
        final: metrics that it had reported as final; with exit code 0 they count.
        timeout_seconds: the trial's limit.
    """
    if killed == "timeout":
        return failed(FailureClass.TIMEOUT, f"the trial ran longer than trials.timeoutSeconds, {timeout_seconds} s")
    if killed == "garbage":
        text = "the trial's code wrote to the line between its process and the worker"
        return failed(FailureClass.USER_ERROR, text)
    if ended is None or ended.status is None:
        return failed(FailureClass.INFRASTRUCTURE, "the process that trials are forked from was killed")
    if os.WIFSIGNALED(ended.status):
        name = signal_name(os.WTERMSIG(ended.status))
        return failed(FailureClass.USER_ERROR, f"the trial's process was ended by {name}")
    code = os.waitstatus_to_exitcode(ended.status)
    if code == 0 and final is not None:
        return Outcome(state=TrialState.SUCCEEDED, metrics=final)
    return failed(
        FailureClass.USER_ERROR, f"the trial's process ended with exit code {code} before it reported a result"
    )


def signal_name(number: int) -> str:
    """signal 9 (SIGKILL)"""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
