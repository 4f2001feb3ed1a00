"""The lease protocol, version 1: HTTP/JSON between a worker's supervisor and the driver.

A bearer token, bounded bodies, no NaN.

``POST /v1/lease``   LeaseRequest  -> LeaseReply    (a long poll of at most ``wait_seconds``)
``POST /v1/report``  ReportRequest -> ReportReply   (metrics and heartbeat in one)
``POST /v1/result``  ResultRequest -> ResultReply   (answered after the result is durable; may carry the next lease)
``GET  /healthz``    no token

Errors are ``{"error": {"reason": CamelCase, "message": text}}``:

- 401 wrong token
- 409 the lease is not ours any more (LeaseLost)
- 413 body too large
- 422 not a message of this protocol
- 426 another version (VersionRefused: the worker exits with EXIT_REFUSED)
- 503 the driver is starting or its store does not answer (try again)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from archsearch.spec.base import JsonObject, Model
from archsearch.spec.experiment import Constraint, EvaluatorSpec, ModelSpace, Objective, Retention
from archsearch.spec.pods import Isolation

PROTOCOL_VERSION = 1
BODY_LIMIT_BYTES = 4 * 1024 * 1024
LOG_TAIL_BYTES = 32 * 1024
LOOPBACK = "127.0.0.1"
POINT_LIMIT_BYTES = 1024 * 1024  # of one point as JSON, so that several fit into a body
POINT_CHOICES = 4096
POINT_NUMBERS = 8192
ALARM_LENGTH = 1024

Secret = Annotated[str, StringConstraints(min_length=16, max_length=128)]
Name = Annotated[str, StringConstraints(max_length=253)]
Message = Annotated[str, StringConstraints(max_length=16_384)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Metrics = Annotated[dict[str, Finite], Field(max_length=256)]


class TrialKind(StrEnum):
    DESCRIBE = "describe"
    EVALUATE = "evaluate"
    SUPERNET = "supernet"
    INHERIT = "inherit"
    PROFILE = "profile"
    PROXY = "proxy"
    RETRAIN = "retrain"
    EXPORT = "export"


class TrialState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    CACHED = "cached"


class FailureClass(StrEnum):
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "outOfMemory"
    USER_ERROR = "userError"
    BAD_METRIC = "badMetric"
    TIMEOUT = "timeout"
    INFRASTRUCTURE = "infrastructure"


FIDELITY = "fidelity"  # the parameter of a trial that says how far it is trained
RESUMED_FIDELITY = "resumedFidelity"  # and of the trial whose training it goes on with


def fidelity_of(params: JsonObject) -> float:
    """The fidelity that a trial's parameters name; infinity where they name none, which is a training in full.

    What is no number counts as 0: below every fidelity that is one.
    """
    wanted = params.get(FIDELITY)
    if wanted is None:
        return float("inf")
    try:
        return float(wanted)
    except (TypeError, ValueError):
        return 0.0


class KeepWeights(StrEnum):
    """Which final weights a worker uploads. Best: where the first objective is at least as good as `best_value`."""

    BEST = "Best"
    ALWAYS = "Always"
    NEVER = "Never"


class StorageRef(Model):
    """Where a run lies, without keys: those are in the worker's secrets directory."""

    uri: str
    endpoint: str = ""
    region: str = ""
    path_style: bool = True


class Assignment(Model):
    """One trial as a worker gets it: complete in itself, no secret in it."""

    experiment: Name
    kind: TrialKind
    number: int | None = Field(default=None, description="None for describe and export.")
    attempt: int = 1
    folder: str = Field(
        description="The trial's folder under the run's, for example trials/17; checkpoints lie in its `checkpoints/`."
    )
    model_space: ModelSpace
    evaluator: EvaluatorSpec
    objectives: list[Objective]
    constraints: list[Constraint] = Field(
        default_factory=list,
        description="Bounds on what a network costs; the trial of one outside ends infeasible, untrained.",
    )
    architecture: JsonObject | None = None
    space_digest: str | None = Field(default=None, description="Digest that the worker's own description must have.")
    seed: int = 0
    params: JsonObject = Field(
        default_factory=dict,
        description="Arguments of the kind: export {checkpoint: KEY, formats: [onnx], config: {...}}, retrain "
        "{config: {...}}, profile {metrics: [...]}, proxy "
        "{architectures: [...], proxies: [...]}; for later kinds theirs.",
    )
    storage: StorageRef
    retention: Retention = Field(default_factory=Retention)
    keep_weights: KeepWeights = KeepWeights.BEST
    best_value: Finite | None = Field(
        default=None, description="First objective of the best trial so far, when the lease was granted."
    )
    isolation: Isolation = Isolation.FORK
    threads: int = Field(default=0, description="0: all that the worker's CPU limit gives.")
    timeout_seconds: int = 0


class Fence(Model):
    epoch: int
    counter: int


class Member(Model):
    """A worker's part in a trial of several pods, as torchrun numbers them; one process a pod."""

    rank: Annotated[int, Field(ge=0)]
    ranks: Annotated[int, Field(ge=2)]
    master_address: Name = Field(description="Where rank 0 is reached by the others.")
    master_port: Annotated[int, Field(ge=1, le=65535)]
    attempt: Name = Field(description="Differs between attempts: nobody left over from one joins the next.")

    @property
    def is_local(self) -> bool:
        """All ranks are processes of one machine."""
        return self.master_address == LOOPBACK

    @property
    def local_rank(self) -> int:
        """This rank's number on its machine; each pod has one."""
        return self.rank if self.is_local else 0


class Grant(Model):
    lease: Secret
    fence: Fence
    lease_seconds: float = Field(description="The lease is lost when no report came for so long.")
    report_seconds: float = Field(description="Report at least this often.")
    assignment: Assignment
    member: Member | None = Field(
        default=None,
        description="For a trial of several pods. All have the same lease; rank 0 alone reports points, "
        "checkpoints and the result, the others that they live and how they ended.",
    )


class LeaseRequest(Model):
    protocol: int = PROTOCOL_VERSION
    version: Name = Field(description="Version of archsearch in the worker.")
    worker: Name
    job: Name = ""
    served: int = Field(default=0, description="Trials that this worker has finished.")
    wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    device: Name = Field(default="cpu", description="Model of the GPU, or cpu.")
    rank: Annotated[int, Field(ge=0)] = 0
    ranks: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Above 1: one of so many workers of `job`, which are granted a trial when all ask."
    )
    address: Name = Field(default="", description="Of rank 0: where the others reach it.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=0, description="Of rank 0: where it will listen.")


class LeaseReply(Model):
    """granted: `grant` holds a trial. wait: none now, ask again after `retry_seconds`. done: exit with 0."""

    state: Literal["granted", "wait", "done"]
    grant: Grant | None = None
    retry_seconds: float = 1.0
    idle_seconds: float = Field(
        default=10.0, description="A worker that waited this long lets go of its resources and exits with 0."
    )


class MetricPoint(Model):
    """One point of a learning curve; of a supernet also its architecture weights, and an alarm about them."""

    step: int
    metrics: Metrics
    weights: dict[Name, list[Finite]] | None = Field(
        default=None,
        max_length=POINT_CHOICES,
        description="Each choice's probabilities after this step, in the order of its candidates.",
    )
    alarm: Annotated[str, StringConstraints(max_length=ALARM_LENGTH)] | None = Field(
        default=None, description="A sentence: the search collapses, and how that shows."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        count = sum(len(values) for values in (self.weights or {}).values())
        if count > POINT_NUMBERS:
            raise ValueError(f"weights hold {count} numbers, at most {POINT_NUMBERS} a point are taken")
        return self


class ReportRequest(Model):
    lease: Secret
    fence: Fence
    points: Annotated[list[MetricPoint], Field(max_length=1000)] = Field(default_factory=list)
    checkpoint: str | None = Field(
        default=None, description="Key of the newest checkpoint that is complete in the store, below the run's folder."
    )
    worker: Name = ""
    job: Name = ""
    rank: Annotated[int, Field(ge=0)] = 0


class ReportReply(Model):
    """stop: end the trial now with what it has (pruned).

    release: checkpoint, give the trial back (result with state pending), lease again or go.
    """

    action: Literal["continue", "stop", "release"] = "continue"


class Resources(Model):
    wall_seconds: Finite = 0.0
    cpu_seconds: Finite = 0.0
    gpu_seconds: Finite = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    threads: int = 0
    device: Name = "cpu"


class Outcome(Model):
    """How a trial ended on a worker.

    State pending: given back unfinished, with the failure class preempted; infrastructure where a rank of several has
    lost the others, whose own end then tells why.
    """

    state: Literal[
        TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.PENDING
    ]
    metrics: Metrics = Field(default_factory=dict)
    failure: FailureClass | None = None
    message: Message = Field(
        default="", description="For a failure: what, where, what to do; a traceback's last lines."
    )
    resources: Resources = Field(default_factory=Resources)
    artifacts: Annotated[dict[str, str], Field(max_length=64)] = Field(
        default_factory=dict, description="Name to key below the run's folder: `checkpoint`, `model`, `log`."
    )
    payload: Any = Field(
        default=None, description="For describe the space document; for other kinds theirs. Bounded by the body."
    )


class ResultRequest(Model):
    lease: Secret
    fence: Fence
    outcome: Outcome
    points: Annotated[list[MetricPoint], Field(max_length=1000)] = Field(
        default_factory=list, description="What no report carried yet: all of it, for a trial shorter than a report."
    )
    next: LeaseRequest | None = Field(default=None, description="Ask for the next lease in the same round trip.")
    worker: Name = ""
    job: Name = ""
    rank: Annotated[int, Field(ge=0)] = 0


class ResultReply(Model):
    """accepted False: the trial was leased again meanwhile, and this result is dropped."""

    accepted: bool
    next: LeaseReply | None = None
