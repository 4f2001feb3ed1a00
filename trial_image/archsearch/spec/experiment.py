"""NASExperiment: the one thing that a person writes. These models make the CRD and check a file on a laptop."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from archsearch.spec import names
from archsearch.spec.base import (
    Count,
    Decimal,
    DnsLabel,
    EntryName,
    FreeForm,
    HttpUrl,
    MetricName,
    Model,
    PythonTarget,
    Text,
    Uri,
    rule,
)
from archsearch.spec.mutation import Mutation
from archsearch.spec.pods import DriverSpec, Trials

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"  # DNS-1035: Services and Jobs are named after an experiment


class Goal(StrEnum):
    MAXIMIZE = "Maximize"
    MINIMIZE = "Minimize"


class OnDelete(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class Objective(Model):
    """One metric that the search improves."""

    metric: MetricName = Field(description="Name of the metric that trials report, for example accuracy.")
    goal: Goal = Field(default=Goal.MAXIMIZE, description="Maximize or Minimize.")
    target: Decimal | None = Field(
        default=None,
        description='The search ends with GoalReached when a trial is this good. A decimal number in quotes: "0.99".',
    )


class Constraint(Model):
    """A bound that an architecture must keep: outside it is not trained or, where only training tells, not chosen.

    Such a trial ends infeasible. It counts towards maxTrials, not towards maxFailedTrials.
    """

    model_config = rule(("has(self.min) || has(self.max)", "give min, max or both"))

    metric: MetricName = Field(description="params, macs, flops, latencyMs, or a metric that trials report.")
    min: Decimal | None = Field(default=None, description="Smallest value allowed, a decimal number in quotes.")
    max: Decimal | None = Field(
        default=None, description='Largest value allowed, a decimal number in quotes, for example "5000000".'
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class ZooSpace(Model):
    """A search space that archsearch, or an installed package, provides by name."""

    name: EntryName = Field(description="Name of the space; `archsearch space` lists them.")
    args: FreeForm = Field(
        default_factory=dict, description="Arguments of the space, for example {channels: 8, cells: 1}."
    )


class CodeSource(Model):
    """Where the user's own code comes from, if the trial image does not hold it."""

    model_config = rule(("has(self.configMapName) != has(self.uri)", "give exactly one of configMapName and uri"))

    config_map_name: DnsLabel | None = Field(
        default=None,
        description="A ConfigMap in the experiment's namespace; each key is a file, for example my_space.py.",
    )
    uri: Uri | None = Field(
        default=None, description="A folder in a store, for example s3://bucket/code; fetched once a worker."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.config_map_name is None) == (self.uri is None):
            raise ValueError("give exactly one of configMapName and uri")
        return self


class PythonSpace(Model):
    """A torch.nn.Module with choices in it, from the user's own code."""

    class_: PythonTarget = Field(alias="class", description="module:Class of the model, for example my_space:Net.")
    args: FreeForm = Field(default_factory=dict, description="Keyword arguments of the class.")
    source: CodeSource | None = Field(
        default=None,
        description="Where the module comes from; absent: it is in the image (on a laptop: beside the file).",
    )
    input_shape: (
        Annotated[list[Annotated[int, Field(ge=1, le=1_000_000)]], Field(min_length=1, max_length=8)] | None
    ) = Field(
        default=None,
        description="Shape of one input without the batch, for example [3, 32, 32]; absent: the evaluator's data tell.",
    )


class ModelSpace(Model):
    """The search space: exactly one of zoo and python."""

    model_config = rule(
        ("has(self.zoo) != has(self.python)", "give exactly one of zoo and python"),
        ("!has(self.mutate) || has(self.python)", "mutate needs python"),
    )

    zoo: ZooSpace | None = Field(default=None, description="A space by name.")
    python: PythonSpace | None = Field(default=None, description="A model class of the user's own code.")
    mutate: Annotated[list[Mutation], Field(max_length=64)] | None = Field(
        default=None,
        description="With python: modules and calls that are replaced, inserted, removed or repeated, so that a network"
        " without choices becomes a space.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.zoo is None) == (self.python is None):
            raise ValueError("give exactly one of zoo and python")
        if self.mutate is not None and self.python is None:
            raise ValueError("mutate needs python")
        return self


class StrategySpec(Model):
    """The algorithm that chooses architectures."""

    name: EntryName = Field(description="Name of the strategy; `archsearch strategies` lists them with their options.")
    config: FreeForm = Field(
        default_factory=dict, description="Options of the strategy, for example {population: 20, sample: 5}."
    )


class StoppingName(StrEnum):
    ASHA = "asha"
    MEDIAN = "median"


class StoppingSpec(Model):
    """Early stopping of trials, laid over the strategy."""

    name: StoppingName = Field(
        description="asha: at each rung only the best go on. median: what falls behind the median so far ends."
    )
    config: FreeForm = Field(
        default_factory=dict, description="Options of the rule, for example {grace: 4, reduction: 3} of asha."
    )


class EvaluatorSpec(Model):
    """How one architecture becomes metrics: exactly one of name and python."""

    model_config = rule(("has(self.name) != has(self.python)", "give exactly one of name and python"))

    name: EntryName | None = Field(default=None, description="Name of an evaluator, for example classification.")
    python: PythonTarget | None = Field(
        default=None,
        description="module:function of the user's own code: a function of a model and a trial context,"
        " or plain trial code that reports a final result.",
    )
    config: FreeForm = Field(
        default_factory=dict, description="Options of the evaluator, for example {dataset: digits, epochs: 2}."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.python is None):
            raise ValueError("give exactly one of name and python")
        return self


class Retrain(Model):
    """Full training of the winners after the search."""

    top_k: Annotated[int, Field(ge=0, le=100)] = Field(
        default=1, description="How many of the best are trained again; 0: none."
    )
    config: FreeForm = Field(
        default_factory=dict, description="Laid over evaluator.config for this training, for example {epochs: 20}."
    )
    controls: Annotated[int, Field(ge=0, le=16)] | None = Field(
        default=None,
        description="How many random architectures of about the best one's size (parameters within 10 %) are trained "
        "alike beside them, to compare with; never exported. Absent: 0 for classic strategies, 1 for one-shot ones.",
    )


class WarmStart(Model):
    """An earlier run whose results serve as prior points and are not computed again."""

    uri: Uri = Field(description="Folder or URI of the earlier run.")


class Budget(Model):
    """What the search may use. The first bound that is met ends it."""

    max_trials: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=100, description="Trials (evaluate, supernet and inherit) at most."
    )
    max_failed_trials: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=5, description="The experiment fails with TooManyFailedTrials when more trials than this have failed."
    )
    max_duration_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="Wall-clock seconds from the start, time suspended left out; then DeadlineExceeded."
    )
    max_gpu_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="GPU seconds of all trials together; then BudgetExhausted."
    )


class Storage(Model):
    """The object store that holds ledger, checkpoints and models."""

    # A cluster's pods share no directory; `archsearch run` takes a path or file:// here as well.
    model_config = rule(
        (
            "!has(self.uri) || self.uri == '' || self.uri.matches('^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$')",
            "uri must be s3://bucket or s3://bucket/prefix (bucket: 3 to 63 lower-case letters, digits, dots, hyphens)",
            "'uri is ' + self.uri + '; in a cluster it must be s3://bucket or s3://bucket/prefix'"
            " + ' (bucket: 3 to 63 lower-case letters, digits, dots, hyphens)'",
        )
    )

    uri: Uri = Field(
        default="",
        description="s3://bucket/prefix; empty: the chart's default storage (on a laptop ./archsearch-runs/NAME).",
    )
    endpoint: HttpUrl = Field(default="", description="URL of an S3-compatible server; empty: AWS.")
    region: Text = Field(default="", description="Region; empty: the client's default.")
    secret_name: DnsLabel = Field(
        default="",
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN); empty: pod identity.",
    )
    path_style: bool = Field(default=True, description="Bucket in the path, not in the host name.")
    ca_config_map_name: DnsLabel = Field(
        default="", description="ConfigMap with the key ca.crt, the CA bundle of the endpoint."
    )


class Retention(Model):
    """What is kept."""

    checkpoints: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2,
        description="Newest checkpoints kept of each trial, and of how many of the best trials the weights are kept; "
        "what a trial refers to is always kept.",
    )
    on_delete: OnDelete = Field(
        default=OnDelete.RETAIN, description="Retain or Delete the run's folder when the experiment is deleted."
    )


class ExperimentSpec(Model):
    """What to search, how, and with what."""

    model_config = rule(
        (
            "self.parallelTrials <= self.budget.maxTrials",
            "parallelTrials must not be more than budget.maxTrials: lower it or raise the budget",
        )
    )

    objectives: Annotated[list[Objective], Field(min_length=1, max_length=8)] = Field(
        description="What the search improves; several make a Pareto search.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
    )
    constraints: Annotated[list[Constraint], Field(max_length=16)] = Field(
        default_factory=list, description="Bounds that an architecture must keep."
    )
    model_space: ModelSpace = Field(description="The search space: exactly one of zoo and python.")
    strategy: StrategySpec = Field(description="The algorithm that chooses architectures.")
    stopping: StoppingSpec | None = Field(default=None, description="Early stopping of trials, laid over the strategy.")
    evaluator: EvaluatorSpec = Field(
        description="How one architecture becomes metrics: exactly one of name and python."
    )
    retrain: Retrain | None = Field(
        default=None,
        description="Training of the winners. Absent: classic strategies export the best trial's own weights,"
        " one-shot ones retrain their best.",
    )
    warm_start: Annotated[list[WarmStart], Field(max_length=16)] = Field(
        default_factory=list, description="Earlier runs to learn from."
    )
    budget: Budget = Field(
        default_factory=Budget, description="What the search may use; a raised budget reopens a finished search."
    )
    parallel_trials: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=1, description="Trials that run at the same time."
    )
    trials: Trials = Field(default_factory=Trials, description="How trials run.")
    driver: DriverSpec = Field(default_factory=DriverSpec, description="The strategy pod.")
    storage: Storage = Field(default_factory=Storage, description="The object store.")
    retention: Retention = Field(default_factory=Retention, description="What is kept.")
    resume_from: Uri = Field(default="", description="Folder or URI of an earlier run whose ledger is adopted.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(default=0, description="Seed of every random choice.")
    suspend: bool = Field(
        default=False, description="True: running trials checkpoint and let go of their resources; nothing new starts."
    )
    ttl_seconds_after_finished: Count | None = Field(
        default=None, description="The experiment is deleted this many seconds after it finished; absent: never."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.parallel_trials > self.budget.max_trials:
            raise ValueError(
                f"parallelTrials is {self.parallel_trials}, more than budget.maxTrials {self.budget.max_trials}:"
                " lower it or raise the budget"
            )
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"objectives names a metric twice: {', '.join(metrics)}")
        return self


class Metadata(Model):
    """The part of Kubernetes' object metadata that archsearch reads. Anything else is kept out of the model."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=names.NAME_MAX, pattern=NAME_PATTERN)]
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class NASExperiment(Model):
    """A neural architecture search."""

    # Items of a list carry neither; a manifest must (see archsearch.spec.load).
    api_version: Literal["archsearch.dev/v1alpha1"] = "archsearch.dev/v1alpha1"
    kind: Literal["NASExperiment"] = "NASExperiment"
    metadata: Metadata
    spec: ExperimentSpec
    status: Any = Field(default=None, exclude=True)


# Only these may change after creation. The chart's admission policy and the ledger's digest both follow this list.
MUTABLE_FIELDS = ("suspend", "parallelTrials", "budget", "retention", "ttlSecondsAfterFinished", "driver")
