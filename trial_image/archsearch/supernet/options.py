"""Options that the supernet trainings of all one-shot algorithms share. Imports no torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from archsearch.evaluate.options import Fraction, NotNegative, PathText, Precision, Rate
from archsearch.spec.base import Model

Count = Annotated[int, Field(ge=1, le=100_000)]


class WeightSchedule(StrEnum):
    COSINE = "cosine"
    RESTARTS = "restarts"
    LINEAR = "linear"
    CONSTANT = "constant"


class Penalty(Model):
    """A term of the architecture's loss: ``weight * expected / reference``, of the architecture distribution."""

    metric: Literal["params", "macs", "flops", "latencyMs"] = Field(
        description="Whose expectation counts. latencyMs needs latencyTable, or is measured where the trial runs."
    )
    weight: NotNegative = Field(description="Of the term, beside a cross-entropy of about 1.")
    reference: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="What the expectation is divided by; absent: its value at the start."
    )


class SupernetConfig(Model):
    """How shared weights are trained. Each algorithm has its paper's values as defaults."""

    epochs: Count = Field(default=50, description="Passes over the examples that weights are trained on.")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=64, description="Examples of one step.")
    learning_rate: Rate = Field(default=0.025, description="Of the weights: SGD's highest rate.")
    minimum_learning_rate: NotNegative = Field(default=0.001, description="Where the schedule ends.")
    schedule: WeightSchedule = Field(
        default=WeightSchedule.COSINE, description="cosine, linear, constant, or restarts: cosines, each begun afresh."
    )
    first_cycle: Count = Field(default=10, description="Epochs of the first cosine of schedule restarts.")
    cycle_factor: Count = Field(default=2, description="How much longer each cosine is than the one before.")
    momentum: Fraction = Field(default=0.9, description="Of SGD on the weights.")
    nesterov: bool = Field(default=False, description="Nesterov's form of that momentum.")
    weight_decay: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        default=3e-4, description="Of the weights."
    )
    clip_norm: NotNegative = Field(default=5.0, description="Largest norm of the weights' gradients; 0: not limited.")
    precision: Precision = Field(default=Precision.FLOAT32, description="float32, or mixed: bfloat16 or float16.")
    architecture_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.5, description="Part of the training examples that only the architecture is learned on."
    )
    penalties: Annotated[list[Penalty], Field(max_length=4)] = Field(
        default_factory=list, description="Expected costs of the architecture, added to its loss."
    )
    latency_table: PathText = Field(
        default="", description="JSON file {CHOICE: {CANDIDATE: milliseconds}} for latencyMs; empty: measured here."
    )
    channels_last: bool = Field(default=True, description="Lay images out as convolutions like them best.")
    compile: bool = Field(
        default=False, description="Compile the network where a compiler is there; else go on without, with a word."
    )
    checkpoint_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = Field(
        default=60.0, description="Seconds between two checkpoints."
    )
    checkpoint_steps: Annotated[int, Field(ge=0, le=10_000_000)] = Field(
        default=0, description="Steps between two checkpoints, beside the seconds; 0: the seconds alone."
    )
    collapse_skip_ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.5, description="The collapse alarm: so large a part of the operations would be skip connections …"
    )
    collapse_epochs: Count = Field(
        default=3, description="… after so many epochs in a row, the first third of all passed."
    )


def again(name: str, default: Any) -> Any:
    """A field of `SupernetConfig` with another default, for an algorithm whose paper has another value."""
    return Field(default=default, description=SupernetConfig.model_fields[name].description)
