"""The history hash: what a run found, in one number that tells whether two runs are the same."""

from __future__ import annotations

import hashlib
import json

from archsearch.protocol import TrialState
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable

# What was measured of a machine differs between two runs that are otherwise the same.
_MEASURED_ENDS = ("seconds", "Seconds")
_MEASURED_STARTS = ("latency", "peakMemoryBytes")


def history_hash(table: TrialTable) -> str:
    """SHA-256 over the finished trials by number: (kind, architecture hash, state, final metrics), one JSON line each.

    A cached result counts as succeeded. Nothing that depends on the machine's speed or on how often a trial was tried
    is in it: metrics whose name ends in `seconds`, latencies and peak memory are left out.
    """
    digest = hashlib.sha256()
    for number in sorted(table.rows):
        row = table.rows[number]
        if row.finished:
            digest.update(_line(row))
    return digest.hexdigest()


def _line(row: Row) -> bytes:
    state = TrialState.SUCCEEDED if row.state is TrialState.CACHED else row.state
    metrics = {name: float(row.metrics[name]) for name in sorted(row.metrics) if not _measured(name)}
    entry = [row.number, row.kind.value, row.hash, state.value, metrics]
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _measured(name: str) -> bool:
    return name.endswith(_MEASURED_ENDS) or name.startswith(_MEASURED_STARTS)
