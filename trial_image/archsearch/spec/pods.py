"""How pods run: the trials' and the driver's sections of a NASExperiment."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from archsearch.spec.base import Annotations, DnsLabel, FreeForm, ImageName, Labels, Model, Seconds, rule


class Isolation(StrEnum):
    IN_PROCESS = "InProcess"
    FORK = "Fork"
    POD = "Pod"


class Retries(Model):
    """Times a trial is tried again, by class of failure. Preemption (eviction, drain, lost lease) is not counted."""

    infrastructure: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10, description="Store, API server or node trouble."
    )
    out_of_memory: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="The trial was killed for memory, on host or device."
    )
    timeout: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="The trial ran longer than timeoutSeconds."
    )
    user_error: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="The user's code raised an exception."
    )
    bad_metric: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="A metric was missing, NaN or infinite."
    )


class PodTemplate(Model):
    """Fields of the pod, taken through as Kubernetes defines them; what archsearch must set is laid over them."""

    resources: FreeForm = Field(
        default_factory=dict, description='Requests and limits, for example {limits: {"nvidia.com/gpu": 1}}.'
    )
    node_selector: Labels = Field(default_factory=dict, description="Node labels.")
    tolerations: Annotated[list[FreeForm], Field(max_length=64)] = Field(
        default_factory=list, description="Tolerations."
    )
    affinity: FreeForm = Field(default_factory=dict, description="Affinity.")
    topology_spread_constraints: Annotated[list[FreeForm], Field(max_length=16)] = Field(
        default_factory=list, description="Topology spread constraints."
    )
    priority_class_name: DnsLabel = Field(default="", description="Priority class.")
    runtime_class_name: DnsLabel = Field(default="", description="Runtime class.")
    scheduler_name: DnsLabel = Field(default="", description="Scheduler.")
    volumes: Annotated[list[FreeForm], Field(max_length=64)] = Field(
        default_factory=list, description="Volumes beside archsearch's own."
    )
    volume_mounts: Annotated[list[FreeForm], Field(max_length=64)] = Field(
        default_factory=list, description="Mounts into the container that runs trials."
    )
    env: Annotated[list[FreeForm], Field(max_length=128)] = Field(
        default_factory=list, description="Environment of the user's code."
    )
    env_from: Annotated[list[FreeForm], Field(max_length=32)] = Field(
        default_factory=list, description="Environment from ConfigMaps or Secrets."
    )
    image_pull_secrets: Annotated[list[FreeForm], Field(max_length=16)] = Field(
        default_factory=list, description="Pull secrets."
    )
    service_account_name: DnsLabel = Field(
        default="", description="Service account (its token is not mounted); for cloud storage identities."
    )
    resource_claims: Annotated[list[FreeForm], Field(max_length=16)] = Field(
        default_factory=list, description="Dynamic resource claims."
    )
    labels: Labels = Field(default_factory=dict, description="Labels of the pod.")
    annotations: Annotations = Field(default_factory=dict, description="Annotations of the pod.")


class Trials(Model):
    """How trials run."""

    model_config = rule(
        (
            "!has(self.isolation) || self.isolation != 'Pod' || self.perJob == 'Auto' || self.perJob == 1",
            "isolation Pod makes a Job of each trial: perJob must be 1 or Auto",
        )
    )

    per_job: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["Auto"] = Field(
        default="Auto",
        description="Trials that one Job runs before it ends, an integer; or Auto: short trials share warm Jobs.",
    )
    isolation: Isolation = Field(
        default=Isolation.FORK,
        description="Fork: each trial in a forked child. InProcess: one after another in one child. Pod: a Job each.",
    )
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Pods of one supernet trial, as torchrun has them; all others have one."
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="CPU threads of a trial; 0: the CPU limit shared out. Recorded with each result."
    )
    timeout_seconds: Seconds = Field(
        default=0, description="Longest time of one trial, pending time left out; 0: none."
    )
    retries: Retries = Field(
        default_factory=Retries, description="How often a failed trial is tried again, by class of failure."
    )
    image: ImageName = Field(default="", description="Image of the trial pods; empty: the chart's trial image.")
    template: PodTemplate = Field(
        default_factory=PodTemplate, description="Resources, scheduling, volumes and environment of the trial pods."
    )
    queue_name: DnsLabel = Field(default="", description="Kueue local queue.")

    @model_validator(mode="after")
    def _isolated(self) -> Self:
        if self.isolation is Isolation.POD and self.per_job not in ("Auto", 1):
            raise ValueError("isolation Pod makes a Job of each trial: perJob must be 1 or Auto")
        return self


class DriverSpec(Model):
    """The strategy pod."""

    image: ImageName = Field(
        default="",
        description="Image of the strategy pod; empty: the chart's trial image. Third-party strategies need another.",
    )
    resources: FreeForm = Field(default_factory=dict, description="Requests and limits of the strategy pod.")
    node_selector: Labels = Field(default_factory=dict, description="Node labels.")
    tolerations: Annotated[list[FreeForm], Field(max_length=64)] = Field(
        default_factory=list, description="Tolerations."
    )
    image_pull_secrets: Annotated[list[FreeForm], Field(max_length=16)] = Field(
        default_factory=list, description="Pull secrets."
    )
    service_account_annotations: Annotations = Field(
        default_factory=dict, description="Annotations of the strategy's service account, for cloud storage identities."
    )
