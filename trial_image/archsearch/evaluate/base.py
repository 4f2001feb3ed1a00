"""What an evaluator is. Imports no torch: the driver and the command line check configurations with these classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ValidationError

from archsearch.spec.base import JsonObject, Model
from archsearch.spec.problems import Problem, SpecError

if TYPE_CHECKING:
    from torch import nn

    from archsearch.evaluate.data.base import Scaling
    from archsearch.trial.context import TrialContext

CONFIG_PATH = "spec.evaluator.config"
# What any network can be asked for besides its evaluator's metrics: measured when an objective or constraint names it.
PROFILE_METRICS = ("params", "macs", "flops", "peakMemoryBytes", "latencyMs", "latencySpreadMs")


class EvaluatorConfig(Model):
    """Base of every evaluator's options: camelCase in the manifest, unknown names refused, frozen."""


class Evaluator(ABC):
    """Trains one plain network and measures it.

    Third parties register subclasses under the entry point group ``archsearch.evaluators``. The module of a subclass
    must import without torch (`Config` and the class methods run where there is none); `evaluate` imports it.
    """

    Config: ClassVar[type[EvaluatorConfig]] = EvaluatorConfig
    needs_network: ClassVar[bool] = True  # False: `evaluate` is called without a model, and nothing can be exported

    def __init__(self, config: EvaluatorConfig) -> None:
        self.config: Any = config

    @classmethod
    def configure(cls, raw: JsonObject, path: str = CONFIG_PATH) -> Self:
        """An evaluator with the options of a manifest.

        Raises:
            SpecError: one problem for each option that is unknown or out of range, at its own path below `path`.
        """
        try:
            return cls(cls.Config.model_validate(raw))
        except ValidationError as error:
            known = ", ".join(sorted(field.alias or name for name, field in cls.Config.model_fields.items()))
            raise SpecError([_problem(fault, path, known) for fault in error.errors(include_url=False)]) from None

    @classmethod
    @abstractmethod
    def metrics(cls, config: Any) -> tuple[str, ...]:
        """Names of the metrics that `evaluate` reports and returns; objectives may name these and no others."""

    @abstractmethod
    def evaluate(self, model: nn.Module, context: TrialContext) -> dict[str, float]:
        """Train `model` in place and return its metrics.

        The global random state is seeded already. Report progress with `context.report`, poll `context` at step
        boundaries, resume from `context.load_checkpoint()` where it gives one.

        Raises:
            BadMetric: the loss is not finite.
            UserError: the data or the network cannot be used as configured.
        """

    @classmethod
    def input_shape(cls, config: Any) -> tuple[int, ...] | None:
        """Shape of one input without the batch; None where it is not known. May read a data set's header."""
        return None

    @classmethod
    def classes(cls, config: Any) -> int | None:
        """Number of outputs that the network needs; None where the evaluator does not know it."""
        return None

    @classmethod
    def arguments(cls, config: Any) -> dict[str, int]:
        """Further arguments of a network's constructor that follow from the data, by name.

        For token numbers `vocabulary`, how many there are; inputs of such a network are int64 numbers below it.
        """
        return {}

    @classmethod
    def wishes(cls, config: Any) -> JsonObject:
        """Arguments that the configuration asks of every network whose constructor takes them, such as `drop_path`."""
        return {}

    @classmethod
    def data_digests(cls, config: Any) -> dict[str, str] | None:
        """Of each data set that trials read its SHA-256; None where it is not known. May read them all.

        Results are taken over into another experiment only where both know their data, and they are the same.
        """
        return None

    @classmethod
    def fidelities(cls, config: Any) -> Sequence[int]:
        """How far a trial may be trained (its parameter `fidelity`), ascending; empty where trials only run in full."""
        return ()

    def scaling(self) -> Scaling | None:
        """How raw data become the network's inputs, for the exported model; None where inputs are taken as they are."""
        return None

    def tokens(self) -> JsonObject | None:
        """How text becomes token numbers, for the exported model; None where inputs are no tokens."""
        return None

    def output(self) -> JsonObject | None:
        """What the outputs mean, for the exported model: ``{mean, std}`` of numbers, ``{classes}`` by name; or None."""
        return None


def _problem(fault: Any, path: str, known: str) -> Problem:
    where = ".".join([path, *(str(part) for part in fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return Problem(where, "no such option", fault["input"], f"known here: {known}")
    message = str(fault["msg"]).removeprefix("Value error, ")
    return Problem(where, message, fault["input"]) if fault["loc"] else Problem(where, message)
