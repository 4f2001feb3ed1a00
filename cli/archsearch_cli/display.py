"""How a running search looks: a live panel on a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from archsearch.protocol import TrialKind
from archsearch.spec.experiment import ExperimentSpec, Goal
from archsearch.spec.status import BestTrial, SearchStatus

if TYPE_CHECKING:
    from rich.panel import Panel

_STATES = ("running", "pending", "succeeded", "cached", "pruned", "infeasible", "failed")
_FINISHED = ("succeeded", "cached", "pruned", "infeasible", "failed")


class Display(Protocol):
    """A listener of a driver, and a context manager around its run."""

    def update(self, status: SearchStatus) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Rate:
    """Finished trials a minute since the search went on under this process; what was done before does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, int] | None = None

    def per_minute(self, status: SearchStatus) -> float | None:
        """None until something finished while it watched."""
        now, done = self._clock(), finished(status)
        if self._began is None:
            if status.verdict.accepted:  # the ledger is replayed by then
                self._began = (now, done)
            return None
        began, before = self._began
        return 60 * (done - before) / (now - began) if done > before and now > began else None


def finished(status: SearchStatus) -> int:
    return sum(getattr(status.trials, state) for state in _FINISHED)


def states(status: SearchStatus) -> str:
    """2 running, 3 pending, 7 succeeded: states that no trial is in are left out."""
    found = [f"{count} {state}" for state in _STATES if (count := getattr(status.trials, state))]
    return ", ".join(found) or "none yet"


def best_text(best: BestTrial | None, spec: ExperimentSpec) -> str:
    """accuracy 0.97 (trial 12)."""
    if best is None:
        return "none yet"
    return f"{spec.objectives[0].metric} {_short(best.value)} (trial {best.number})"


def _short(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value


def alarm_text(status: SearchStatus) -> str:
    """trial 1, step 30: the search collapses (and 2 more); empty without one."""
    if not status.alarms:
        return ""
    last, more = status.alarms[-1], len(status.alarms) - 1
    return f"trial {last.number}, step {last.step}: {last.message}" + (f" (and {more} more)" if more else "")


def running_text(status: SearchStatus, kinds: Collection[str] = tuple(TrialKind)) -> str:
    """trial 1 (supernet) at step 12: accuracy 0.61, loss 1.2, the newest of these kinds; empty without one."""
    for trial in reversed(status.running):
        if trial.kind in kinds:
            metrics = ", ".join(f"{name} {_short(value)}" for name, value in list(trial.metrics.items())[:3])
            return f"trial {trial.number} ({trial.kind}) at step {trial.step}" + (f": {metrics}" if metrics else "")
    return ""


def _waiting(status: SearchStatus) -> str:
    return f"{status.waiting.reason}: {status.waiting.message}" if status.waiting else ""


class PlainDisplay:
    """One line whenever something of note changed, for logs and pipes."""

    def __init__(self, spec: ExperimentSpec, stream: TextIO | None = None, rate: Rate | None = None) -> None:
        self._spec = spec
        self._stream = stream or sys.stderr
        self._rate = rate or Rate()
        self._last: tuple[object, ...] = ()

    def update(self, status: SearchStatus) -> None:
        best = status.best[0] if status.best else None
        alarm = alarm_text(status)
        supernet = running_text(status, (TrialKind.SUPERNET,))  # the steps of others are too many for a log
        counts = (status.progress, finished(status), best and best.number)
        news = (status.stage, *counts, supernet, _waiting(status), alarm)
        rate = self._rate.per_minute(status)
        if news == self._last:
            return
        told, self._last = alarm in self._last, news
        parts = [f"trials {status.progress or '0'} ({states(status)})", f"best {best_text(best, self._spec)}"]
        if status.stage:
            parts.insert(0, status.stage)
        if supernet:
            parts.append(supernet)
        if rate is not None:
            parts.append(f"{rate:.3g}/min")
        if status.eta:
            parts.append(f"ETA {status.eta}")
        if status.waiting:
            parts.append(f"waiting: {_waiting(status)}")
        if alarm and not told:
            parts.append(f"alarm: {alarm}")
        self._stream.write(" | ".join(parts) + "\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


class LiveDisplay:
    """A panel that is drawn again in place."""

    def __init__(self, name: str, spec: ExperimentSpec) -> None:
        from rich.console import Console
        from rich.live import Live

        self._name, self._spec, self._rate = name, spec, Rate()
        self._status = SearchStatus()
        self._live = Live(console=Console(stderr=True), get_renderable=self._render, refresh_per_second=4)

    def update(self, status: SearchStatus) -> None:
        self._status = status
        self._rate.per_minute(status)

    def _render(self) -> Panel:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        status, rate = self._status, self._rate.per_minute(self._status)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(overflow="fold")
        best = status.best[0] if status.best else None
        better = "larger" if self._spec.objectives[0].goal is Goal.MAXIMIZE else "smaller"
        rows = [
            ("trials", f"{status.progress or '0'}   {states(status)}"),
            ("running", running_text(status)),
            ("best", best_text(best, self._spec) + (f", {better} is better" if best else "")),
            ("rate", f"{rate:.3g} trials a minute" if rate is not None else "…"),
            ("ETA", status.eta or "…"),
            ("stage", status.stage),
            ("waiting", _waiting(status)),
            ("alarm", alarm_text(status)),
        ]
        for label, text in rows:
            if text:
                grid.add_row(label, Text(text))
        total = self._spec.budget.max_trials
        bar = ProgressBar(total=total, completed=min(total, finished(status)))
        return Panel(Group(bar, grid), title=Text(self._name), title_align="left")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()


def display(name: str, spec: ExperimentSpec) -> Display:
    """The one that fits stderr."""
    return LiveDisplay(name, spec) if sys.stderr.isatty() else PlainDisplay(spec)
