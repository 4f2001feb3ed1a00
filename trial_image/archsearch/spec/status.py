"""The status of a NASExperiment. The driver writes `search` and nothing else; the operator writes the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from archsearch.spec.base import JsonObject, Model

Short = Annotated[str, StringConstraints(max_length=256)]
Message = Annotated[str, StringConstraints(max_length=4096)]


class Condition(Model):
    type: Short
    status: Literal["True", "False", "Unknown"]
    reason: Short
    message: Message = ""
    observed_generation: int = 0
    last_transition_time: Short = ""


class TrialCounts(Model):
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    pruned: int = 0
    infeasible: int = 0
    cached: int = 0


class BestTrial(Model):
    number: int
    value: Short = Field(default="", description="Value of the first objective, a decimal number in a string.")
    metrics: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)
    architecture: JsonObject = Field(default_factory=dict)


class Verdict(Model):
    """What the driver says of the experiment; the operator makes conditions and Events of it."""

    accepted: bool | None = Field(default=None, description="None until strategy, evaluator, objectives and space are checked.")
    state: Literal["", "Running", "Suspended", "Succeeded", "Failed"] = ""
    reason: Short = ""
    message: Message = ""


class Waiting(Model):
    reason: Short = ""
    message: Message = ""


class SearchStatus(Model):
    stage: Short = ""
    progress: Short = Field(default="", description="Finished trials of the most that may run, for example 12/40.")
    trials: TrialCounts = Field(default_factory=TrialCounts)
    best: Annotated[list[BestTrial], Field(max_length=5)] = Field(default_factory=list, description="The best trials, best first.")
    pareto: Annotated[list[BestTrial], Field(max_length=20)] = Field(default_factory=list)
    failures: Annotated[dict[str, int], Field(max_length=16)] = Field(default_factory=dict, description="Failed attempts by class.")
    verdict: Verdict = Field(default_factory=Verdict)
    waiting: Waiting | None = None
    eta: Short = ""
    gpu_seconds: int = 0
    updated_time: Short = ""


class ExperimentStatus(Model):
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    search: SearchStatus | None = None
    state: Short = ""
    storage_uri: Annotated[str, StringConstraints(max_length=1400)] = ""
    start_time: Short = ""
    completion_time: Short = ""
    observed_generation: int = 0


def search_status(status: Any) -> SearchStatus | None:
    """The driver's part of a raw status, or None where there is none yet."""
    found = (status or {}).get("search")
    return SearchStatus.model_validate(found) if found else None
