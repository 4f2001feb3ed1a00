"""What a trial child does for each kind of trial."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch.trial.context import TrialContext


@dataclass(frozen=True)
class KindResult:
    """What a finished trial hands back: final metrics, all finite, and the payload of its kind (JSON)."""

    metrics: dict[str, float] = field(default_factory=dict)
    payload: Any = None


def run_kind(context: TrialContext) -> KindResult:
    """Run the trial that `context.assignment` describes, in this process.

    Raises:
        UserError: the space, the user's code, the data or the configuration cannot be used (failure class userError).
        BadMetric: a metric is missing, NaN or infinite (failure class badMetric).
        TrialStopped, TrialReleased: the trial was told to end (from the context's checkpoint points).
    """
    raise NotImplementedError
