"""The ledger's records: everything that happened to a run, in order. Each carries the format version.

Three groups: what the outside did (`Opened`, `Leased`, `Result`, …), what the strategy saw of it and when (its inputs:
`Prior`, `Facts`, `Handed`, `Memo`), and what the strategy asked for (its outputs: `Submitted`, `Staged`, `StopAsked`).
A replay feeds the inputs and compares the outputs. Times are seconds since the epoch; they decide nothing but the
duration budget.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from archsearch.errors import ArchsearchError
from archsearch.protocol import FailureClass, MetricPoint, Metrics, Resources, TrialKind, TrialState
from archsearch.spec.base import JsonObject, Model


class RecordBase(Model):
    v: Literal[1] = 1


class Experiment(RecordBase):
    """The first record of every ledger."""

    type: Literal["experiment"] = "experiment"
    name: str
    spec: JsonObject
    digest: str = Field(description="Of the parts of the spec that may not change.")
    time: float


class Opened(RecordBase):
    """A driver took over with a new epoch."""

    type: Literal["opened"] = "opened"
    epoch: int
    version: str
    time: float


class Accepted(RecordBase):
    """The checks passed; the search space is the one of `space` (its digest)."""

    type: Literal["accepted"] = "accepted"
    space: str
    identity: dict[str, str | None] = Field(
        default_factory=dict, description="Digests of what results depend on, part by part; None: not known."
    )
    reuse: str = Field(default="", description="Digest of `identity`; empty where a part is not known.")
    highest_fidelity: float | None = Field(
        default=None, description="The most that the strategy trains a trial; only there a target counts."
    )


class PriorResult(Model):
    """A result of an earlier run, as the strategy sees it."""

    architecture: JsonObject
    hash: str
    metrics: Metrics
    values: list[float]
    group: int = Field(default=0, description="0: comparable with this run's own results.")


class Prior(RecordBase):
    """Input: what earlier runs know of the space, before the strategy starts. Bounded; the most promising first."""

    type: Literal["prior"] = "prior"
    uris: list[str]
    points: list[PriorResult] = Field(default_factory=list)


class Facts(RecordBase):
    """Input: what the strategy is told of the outside, at its start and after each change."""

    type: Literal["facts"] = "facts"
    parallelism: int
    max_trials: int


class Submitted(RecordBase):
    """Output: a trial was asked for. Written before it is leased."""

    type: Literal["submitted"] = "submitted"
    number: int
    kind: TrialKind
    architecture: JsonObject | None = None
    hash: str = ""
    params: JsonObject = Field(default_factory=dict)
    replicate: int = 0
    seed: int = 0


class Added(RecordBase):
    """The driver wants a trial of its own after the search; the strategy neither knows of it nor sees its result."""

    type: Literal["added"] = "added"
    number: int
    of: int = Field(description="The trial whose architecture is trained again, or is compared with.")
    control: bool = Field(default=False, description="A random architecture, to compare with: never exported.")
    kind: TrialKind = TrialKind.RETRAIN
    architecture: JsonObject | None = None
    hash: str = ""
    params: JsonObject = Field(default_factory=dict)
    replicate: int = 0
    seed: int = 0


class Staged(RecordBase):
    """Output: the strategy entered a phase."""

    type: Literal["staged"] = "staged"
    name: str


class Noted(RecordBase):
    """Output: what the strategy found out, in place of its earlier note of that name."""

    type: Literal["noted"] = "noted"
    name: str
    value: JsonObject


class StopAsked(RecordBase):
    """Output: the strategy wants a trial to end with what it has."""

    type: Literal["stopAsked"] = "stopAsked"
    number: int


class Stopped(RecordBase):
    """A stopping rule laid over the strategy decided so."""

    type: Literal["stopped"] = "stopped"
    number: int
    rule: str
    reason: str = ""


class Leased(RecordBase):
    """A trial was given to a worker. The lease's secret itself is written nowhere."""

    type: Literal["leased"] = "leased"
    number: int
    attempt: int
    lease: str = Field(description="SHA-256 of the lease's secret.")
    epoch: int
    counter: int
    worker: str
    job: str
    time: float


class Reported(RecordBase):
    """Intermediate metrics, or a new checkpoint, of a running trial."""

    type: Literal["reported"] = "reported"
    number: int
    points: list[MetricPoint] = Field(default_factory=list)
    checkpoint: str | None = None


class Returned(RecordBase):
    """An attempt ended without a result, and the trial waits again: the failure's class says why."""

    type: Literal["returned"] = "returned"
    number: int
    attempt: int
    failure: FailureClass
    message: str = ""
    resources: Resources = Field(default_factory=Resources)
    time: float


class Reclaimed(RecordBase):
    """The worker of a lease that had run out came back before the trial was leased again."""

    type: Literal["reclaimed"] = "reclaimed"
    number: int
    attempt: int


class Result(RecordBase):
    """A trial is finished. Durable before the worker hears so."""

    type: Literal["result"] = "result"
    number: int
    attempt: int = 0
    state: Literal[TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.CACHED]
    metrics: Metrics = Field(default_factory=dict)
    failure: FailureClass | None = None
    message: str = ""
    resources: Resources = Field(default_factory=Resources)
    artifacts: dict[str, str] = Field(default_factory=dict)
    payload: Any = None
    source: int | None = Field(default=None, description="For a known result: the trial that it is from.")
    source_uri: str = Field(default="", description="The run of that trial, if it is an earlier one.")
    time: float


class Discarded(RecordBase):
    """Weights that nothing needs any more: written first, then deleted."""

    type: Literal["discarded"] = "discarded"
    keys: list[str]


class Handed(RecordBase):
    """Input: the strategy was given this trial's result."""

    type: Literal["handed"] = "handed"
    number: int


class Memo(RecordBase):
    """Input: the value of the oldest computation that the strategy waited for."""

    type: Literal["memo"] = "memo"
    value: Any = None


class Suspended(RecordBase):
    type: Literal["suspended"] = "suspended"
    time: float


class Resumed(RecordBase):
    type: Literal["resumed"] = "resumed"
    time: float


class Ended(RecordBase):
    """The search ended by a rule of its own."""

    type: Literal["ended"] = "ended"
    reason: str
    message: str
    time: float


class Exported(RecordBase):
    """The best trial's model lies in `best/`; or why it does not."""

    type: Literal["exported"] = "exported"
    number: int
    artifacts: dict[str, str] = Field(default_factory=dict)
    error: str = ""
    time: float


class Reopened(RecordBase):
    """A raised budget goes on with a search that had ended."""

    type: Literal["reopened"] = "reopened"
    time: float


class Closed(RecordBase):
    """The driver stopped in order; the time until the next `opened` is not the search's."""

    type: Literal["closed"] = "closed"
    time: float


Record = (
    Experiment | Opened | Accepted | Prior | Facts | Submitted | Added | Staged | Noted | StopAsked | Stopped | Leased
    | Reported | Returned | Reclaimed | Result | Discarded | Handed | Memo | Suspended | Resumed | Ended | Exported
    | Reopened | Closed
)  # fmt: skip

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="type")])


class LedgerFormatError(ArchsearchError):
    """A ledger holds a record that this version does not know."""


def parse(document: JsonObject) -> Record:
    """A record from its JSON.

    Raises:
        LedgerFormatError: an unknown type or a newer format.
    """
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        what = f"type {document.get('type')!r}, format {document.get('v')!r}"
        raise LedgerFormatError(
            f"the ledger holds a record that this version of archsearch cannot read ({what}): "
            f"it was written by another version, or is damaged. {error.errors()[0]['msg']}"
        ) from error
