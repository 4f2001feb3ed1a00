"""The status of a NASExperiment. The driver writes `search` and nothing else; the operator writes the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from archsearch.spec.base import Count, FreeForm, Model

Short = Annotated[str, StringConstraints(max_length=256)]
Message = Annotated[str, StringConstraints(max_length=4096)]


Generation = Annotated[int, Field(ge=0, le=2**63 - 1)]
Value = Annotated[str, StringConstraints(max_length=64)]


class Condition(Model):
    """One aspect of the experiment's state, by the Kubernetes API conventions."""

    type: Short = Field(description="Accepted, Running, Suspended, Succeeded or Failed.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: Short = Field(description="One word that programs can match on.")
    message: Message = Field(default="", description="The same for people.")
    observed_generation: Generation = Field(default=0, description="Generation of the spec that this was made from.")
    last_transition_time: Short = Field(default="", description="When the status last changed.")


class TrialCounts(Model):
    """Trials by state."""

    pending: Count = Field(default=0, description="Submitted and waiting for a worker.")
    running: Count = Field(default=0, description="Leased to a worker.")
    succeeded: Count = Field(default=0, description="Finished with metrics.")
    failed: Count = Field(default=0, description="Failed for good.")
    pruned: Count = Field(default=0, description="Stopped early.")
    infeasible: Count = Field(default=0, description="Outside the constraints; never trained.")
    cached: Count = Field(default=0, description="Taken over from an earlier result.")


class BestTrial(Model):
    """A trial worth naming."""

    number: Count = Field(description="Number of the trial.")
    value: Value = Field(default="", description="Value of the first objective, a decimal number in a string.")
    metrics: Annotated[dict[str, Value], Field(max_length=64)] = Field(
        default_factory=dict, description="Final metrics, decimal numbers in strings."
    )
    architecture: FreeForm = Field(default_factory=dict, description="The architecture, a decision for each choice.")


class RunningTrial(Model):
    """How far a trial is."""

    number: Count = Field(description="Number of the trial.")
    kind: Short = Field(default="", description="evaluate, supernet, inherit, retrain, …")
    step: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(default=0, description="Its newest epoch or step.")
    metrics: Annotated[dict[str, Value], Field(max_length=16)] = Field(
        default_factory=dict, description="What it reported of that step, decimal numbers in strings."
    )


class Alarm(Model):
    """What a running trial warns of."""

    number: Count = Field(description="Number of the trial.")
    step: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(default=0, description="Its epoch or step.")
    message: Annotated[str, StringConstraints(max_length=512)] = Field(
        default="", description="What goes wrong, and what to do."
    )


class Verdict(Model):
    """What the driver says of the experiment; the operator makes conditions and Events of it."""

    accepted: bool | None = Field(
        default=None, description="Absent until strategy, evaluator, objectives and space are checked."
    )
    state: Literal["", "Running", "Suspended", "Succeeded", "Failed"] = Field(
        default="", description="Running, Suspended, Succeeded or Failed."
    )
    reason: Short = Field(default="", description="One word that programs can match on.")
    message: Message = Field(default="", description="The same for people.")


class Waiting(Model):
    """What the search waits for."""

    reason: Short = Field(default="", description="One word that programs can match on.")
    message: Message = Field(default="", description="The same for people.")


class SearchStatus(Model):
    """How the search stands. Written by the strategy pod, at most once a second."""

    stage: Short = Field(default="", description="Phase of the strategy.")
    progress: Short = Field(default="", description="Finished trials of the most that may run, for example 12/40.")
    trials: TrialCounts = Field(default_factory=TrialCounts, description="Trials by state.")
    running: Annotated[list[RunningTrial], Field(max_length=5)] = Field(
        default_factory=list, description="Some of the running trials that reported a step, the newest last."
    )
    best: Annotated[list[BestTrial], Field(max_length=5)] = Field(
        default_factory=list, description="The best trials, best first."
    )
    pareto: Annotated[list[BestTrial], Field(max_length=20)] = Field(
        default_factory=list, description="With several objectives: trials that no other beats in all of them."
    )
    failures: Annotated[dict[str, Count], Field(max_length=16)] = Field(
        default_factory=dict, description="Failed attempts by class."
    )
    alarms: Annotated[list[Alarm], Field(max_length=20)] = Field(
        default_factory=list, description="What trials warned of, the newest last: an architecture search collapses."
    )
    verdict: Verdict = Field(default_factory=Verdict, description="What the strategy pod says of the experiment.")
    waiting: Waiting | None = Field(default=None, description="What the search waits for; absent: nothing.")
    eta: Short = Field(default="", description="Estimated end.")
    gpu_seconds: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(default=0, description="GPU seconds used so far.")
    updated_time: Short = Field(default="", description="When this was written.")


class ExperimentStatus(Model):
    """How the experiment stands. `search` is the strategy pod's, everything else the operator's."""

    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Accepted, Running, Suspended, Succeeded, Failed.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    search: SearchStatus | None = Field(default=None, description="How the search stands.")
    state: Short = Field(default="", description="One word for the column, made from the conditions.")
    storage_uri: Annotated[str, StringConstraints(max_length=1400)] = Field(
        default="", description="Folder of this run in the store."
    )
    start_time: Short = Field(default="", description="When the experiment was first seen.")
    completion_time: Short = Field(default="", description="When it succeeded or failed.")
    observed_generation: Generation = Field(default=0, description="Newest generation of the spec that was acted on.")


def search_status(status: Any) -> SearchStatus | None:
    """The driver's part of a raw status, or None where there is none yet."""
    found = (status or {}).get("search")
    return SearchStatus.model_validate(found) if found else None
