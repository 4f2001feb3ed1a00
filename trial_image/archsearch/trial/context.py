"""What a trial sees of the system: its assignment, its folder, and a way to report, to checkpoint and to hear its end.

A trial child has no keys: it writes files and short messages, which the worker's supervisor reads, checks and uploads.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from archsearch.errors import ArchsearchError
from archsearch.protocol import ALARM_LENGTH, FIDELITY, Assignment, KeepWeights, Member, fidelity_of
from archsearch.spec.base import JsonObject
from archsearch.trial.metrics import numbers, probabilities, worth_keeping
from archsearch.trial.saving import Saver

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Tensors = Mapping[str, Tensor]

CHECKPOINT_SECONDS = 60.0
PROGRESS = "progress"
_PROGRESS_PREFIX = "archsearch.progress."  # of tensors beside the weights


class TrialStopped(BaseException):
    """The trial was told to end now with what it has.

    No Exception, so that `except Exception` in user code lets it through.
    """


class TrialReleased(BaseException):
    """The trial was told to give itself back, its checkpoint saved; another worker goes on from there."""


class Infeasible(ArchsearchError):
    """The architecture cannot be built or lies outside what may be trained; the trial ends infeasible, not failed."""


class Channel(Protocol):
    """The trial's side of the line to the supervisor."""

    def send(self, message: JsonObject) -> None:
        """Send one message; blocks while the supervisor is behind. Any thread may call it."""

    def poll(self) -> list[str]:
        """Orders that came since the last call: `stop`, `release`. Never blocks."""


class Flags(NamedTuple):
    """What a trial is to do where its state is whole: end, give itself back, save a checkpoint."""

    stop: bool
    release: bool
    due: bool


class _Silent:
    def send(self, message: JsonObject) -> None:
        pass

    def poll(self) -> list[str]:
        return []


class TrialContext:
    """Handed to every evaluator, and to the user's function of a model and a context.

    Attributes:
        assignment: what is to be done, complete and without secrets.
        directory: an empty folder of this attempt, the working directory; removed afterwards.
        artifacts: a folder for files that outlive the trial (export); uploaded when the trial succeeds.
        cache: a folder that all trials of this worker share, for data sets that are fetched once.
        threads: CPU threads that the trial may use.
        last_metrics: every metric reported so far, each with its newest value.
        final_metrics: what `archsearch.trial.report_final_result` was given, else None.
        charged_seconds: an evaluator's own account of the trial's GPU seconds, in place of those measured; else None.
        member: this process's part in a trial of several pods, else None. All ranks call the same methods; points,
            checkpoints and final weights are those of rank 0, and what the others give is dropped.
        agree: makes of each rank's flags what all do; set by `archsearch.supernet.distributed.start`.
        checkpoint_seconds: the longest time between two checkpoints; an evaluator may set another.
        model: the network that `archsearch.trial.get_and_apply_next_architecture` made, else None; its weights are kept
            at the end where `final_weights` was not called.
    """

    def __init__(
        self,
        assignment: Assignment,
        directory: Path,
        *,
        channel: Channel | None = None,
        threads: int = 1,
        cache: Path | None = None,
        resume: Path | None = None,
        input_checkpoint: Path | None = None,
        input_verified: bool = False,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        member: Member | None = None,
    ) -> None:
        self.assignment = assignment
        self.directory = directory
        self.artifacts = directory / "artifacts"
        self.cache = cache or directory / "cache"
        self.threads = threads
        self.last_metrics: dict[str, float] = {}
        self.final_metrics: dict[str, float] | None = None
        self.charged_seconds: float | None = None
        self.model: nn.Module | None = None
        self.member = member
        self.agree: Callable[[Flags], Flags] | None = None
        self._channel: Channel = channel or _Silent()
        self._resume = resume
        self._input = input_checkpoint
        self._input_verified = input_verified
        self.checkpoint_seconds = checkpoint_seconds
        self._saver = Saver(directory / "checkpoints", self._announce)
        self._clock = clock
        self._copied_later: list[torch.optim.Optimizer] = []
        self._saved_at = clock()
        self._saved = (
            int(resume.name.split("-")[0]) if resume is not None and resume.name.split("-")[0].isdigit() else 0
        )
        self._stop = False
        self._release = False
        self._weights: tuple[Tensors, JsonObject] | None = None
        self._progress: tuple[Tensors, JsonObject] | None = None
        for folder in (self.artifacts, self.cache):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def seed(self) -> int:
        """The trial's own seed: from the experiment's, the architecture and the replicate."""
        return self.assignment.seed

    @property
    def fidelity(self) -> float | None:
        """How far to train, in epochs or the evaluator's own unit; None: in full."""
        return fidelity_of(self.assignment.params) if FIDELITY in self.assignment.params else None

    @property
    def device(self) -> str:
        """`cuda` where one is usable, else `cpu`. The first call in a trial with a GPU may initialise CUDA."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, or the one process of its trial."""
        return self.member is None or self.member.rank == 0

    @property
    def resumed_from(self) -> str:
        """Name of the checkpoint that `load_checkpoint` gives; empty where the trial starts afresh."""
        return self._resume.name if self._resume is not None else ""

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        weights: Mapping[str, Sequence[float]] | None = None,
        alarm: str = "",
    ) -> None:
        """Send one point of the learning curve. Values that are not finite are left out (NaN is no JSON).

        Args:
            step: grows within a trial, for example the epoch.
            metrics: numbers by name; `loss`, `steps_per_second` and `examples_per_second` show in the worker's own
                metrics too.
            weights: each choice's probabilities (one dimension, any numbers), of a supernet; sent with 5 decimals. A
                choice with one that is not finite is left out.
            alarm: a sentence where the search goes wrong, for example a collapse; shown in the experiment's status and
                as an Event. Its first 1024 characters are sent.

        Raises:
            BadMetric: a value is no number.
            ArchsearchError: more weights than a point may carry.
        """
        finite = {name: value for name, value in numbers(metrics).items() if math.isfinite(value)}
        message: JsonObject = {"type": "point", "step": int(step), "metrics": finite}
        if weights:
            message["weights"] = probabilities(weights)
        if alarm:
            message["alarm"] = alarm[:ALARM_LENGTH]
        self.last_metrics.update(finite)
        if self.leads:
            self._channel.send(message)

    @property
    def should_stop(self) -> bool:
        """The search has seen enough: end now. Poll it between batches, or use `checkpoint_point`."""
        self._listen()
        return self._stop

    @property
    def should_release(self) -> bool:
        """The worker has to go: save a checkpoint and raise TrialReleased, or use `checkpoint_point`."""
        self._listen()
        return self._release

    def checkpoint_due(self) -> bool:
        """True when the last checkpoint is older than the interval, or the trial is to be given back."""
        return self.should_release or self._clock() - self._saved_at >= self.checkpoint_seconds

    def checkpoint_point(self, snapshot: Callable[[], tuple[Tensors, JsonObject]]) -> None:
        """To be called where the state is whole, for example after each epoch. Stops, releases or checkpoints if due.

        Of several ranks all call it after the same step, and all do what any was told.

        Args:
            snapshot: gives the tensors and the JSON state from which the trial can go on; called only when wanted, then
                on every rank, of which rank 0's is saved. Live tensors will do: they are copied before this returns,
                those of `copied_later` in the step that follows.

        Raises:
            TrialStopped: the trial shall end with what it has.
            TrialReleased: the checkpoint is saved, another worker goes on.
        """
        self.settle()
        flags = Flags(self.should_stop, self.should_release, self.checkpoint_due())
        if self.agree is not None:
            flags = self.agree(flags)
        if flags.stop:
            raise TrialStopped
        if flags.due or flags.release:
            self.save_checkpoint(*snapshot())
        if flags.release:
            self._saver.wait()
            raise TrialReleased

    def save_checkpoint(self, tensors: Tensors, state: JsonObject) -> None:
        """Copy a checkpoint; it is written in the background, and then uploaded by the supervisor.

        Args:
            tensors: flat, any shape and device; free to change when this returns, but for those of `copied_later`.
            state: JSON (step, optimizer scalars, generator states).

        Raises:
            ValueError, TypeError: `state` is no JSON.
            OSError: the checkpoint before this one could not be written.
        """
        if not self.leads:
            return
        self._saved += 1
        later = {id(tensor) for optimizer in self._copied_later for tensor in _tensors_of(optimizer)}
        self._saver.save(f"{self._saved:08d}", tensors, state, later)
        self._saved_at = self._clock()

    def copied_later(self, optimizer: torch.optim.Optimizer) -> None:
        """Have checkpoints copy what this optimizer changes, its parameters and its own state, while the next step
        computes its gradients: the trainer is held for less.

        For parameters that nothing but `optimizer.step` changes; who changes them otherwise calls `settle` before.
        """
        self._copied_later.append(optimizer)
        optimizer.register_step_pre_hook(lambda *_: self.settle())

    def settle(self) -> None:
        """Wait until the last checkpoint is copied: what follows may change any tensor."""
        self._saver.settle()

    def close(self) -> None:
        """Wait for the checkpoint that is being written. For whoever runs the trial, at its end.

        Raises:
            OSError: it could not be written.
        """
        self._saver.close()

    def _announce(self, name: str) -> None:
        self._channel.send({"type": "checkpoint", "name": name})

    def load_checkpoint(self) -> tuple[dict[str, Tensor], JsonObject] | None:
        """Tensors (on the CPU) and state of an earlier attempt's newest checkpoint, verified; None: start afresh."""
        return _read(self._resume)

    def load_input(self) -> tuple[dict[str, Tensor], JsonObject] | None:
        """The weights that this trial begins with (`params.checkpoint`) and the JSON that went with them, verified.

        Those of the same architecture at a lower fidelity, a supernet's, or weights to export. None: it has none.
        Their file is mapped, not read: tensors (on the CPU) cost memory where they are touched, and the worker's other
        trials have the same pages. Writing to one copies its pages and changes nobody else's.
        """
        found = _read(self._input, verify=not self._input_verified)
        if found is None:
            return None
        tensors, state = found
        state.pop(PROGRESS, None)
        return {name: value for name, value in tensors.items() if not name.startswith(_PROGRESS_PREFIX)}, state

    def save_progress(self, tensors: Tensors, state: JsonObject) -> None:
        """Hand over what a trial of a higher fidelity needs to go on, beside the final weights: the optimizer's state.

        Only a reference is kept; it is written with the final weights.

        Args:
            tensors: flat, any shape and device.
            state: JSON.
        """
        self._progress = (tensors, state)

    def load_progress(self) -> tuple[dict[str, Tensor], JsonObject] | None:
        """What the trial of the same architecture at the lower fidelity gave `save_progress`; None: nothing."""
        found = _read(self._input, verify=not self._input_verified)
        if found is None or PROGRESS not in found[1]:
            return None
        extra = {name: value for name, value in found[0].items() if name.startswith(_PROGRESS_PREFIX)}
        return {name.removeprefix(_PROGRESS_PREFIX): value for name, value in extra.items()}, found[1][PROGRESS]

    def final_weights(self, tensors: Tensors, state: JsonObject | None = None) -> None:
        """Hand over the final weights. Only a reference is kept; they are written if the metrics are good enough.

        Args:
            tensors: the trained network's state_dict.
            state: JSON that goes with them.
        """
        if self.assignment.keep_weights is not KeepWeights.NEVER:
            self._weights = (tensors, state or {})

    def save_final_weights(self, metrics: Mapping[str, float]) -> Path | None:
        """Write what `final_weights` was given, if `keepWeights` and the objective ask for it. For the trial child.

        Returns:
            The checkpoint's folder, or None where nothing is kept.
        """
        if self._weights is None and self.model is not None:
            self.final_weights(self.model.state_dict())
        if self._weights is None or not self.leads or not worth_keeping(self.assignment, metrics):
            return None
        from archsearch.store.checkpoint import write_checkpoint

        with contextlib.suppress(OSError):  # it fails again below, where it matters
            self._saver.wait()
        folder = self.directory / "final"
        tensors, state = self._weights
        if self._progress is not None:
            extra, progress = self._progress
            tensors = {**tensors, **{_PROGRESS_PREFIX + name: value for name, value in extra.items()}}
            state = {**state, PROGRESS: progress}
        write_checkpoint(folder, tensors, state)
        return folder

    def send_final(self, metrics: dict[str, float]) -> None:
        """Record the final metrics at once, so that they count even if the code then ends its process."""
        self.final_metrics = metrics
        self._channel.send({"type": "final", "metrics": metrics})

    def _listen(self) -> None:
        for order in self._channel.poll():
            self._stop |= order == "stop"
            self._release |= order == "release"


def _tensors_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """What the optimizer's steps change."""
    for group in optimizer.param_groups:
        yield from group["params"]
    for held in optimizer.state.values():
        yield from held.values()


def _read(folder: Path | None, *, verify: bool = True) -> tuple[dict[str, Tensor], JsonObject] | None:
    if folder is None:
        return None
    from archsearch.store.checkpoint import read_checkpoint

    return read_checkpoint(folder, verify=verify)


_current: TrialContext | None = None


def current() -> TrialContext | None:
    """The trial that this process runs; None outside an experiment."""
    return _current


def set_current(context: TrialContext | None) -> None:
    """Called by whoever runs a trial in this process, before and after."""
    global _current  # noqa: PLW0603
    _current = context
