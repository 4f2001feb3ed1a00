"""What a trial child does for each kind of trial. Imports torch: for trial children and the zygote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.base import Evaluator
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.models import build_space, describe_space, fixed
from archsearch.evaluate.user import UserEvaluator
from archsearch.protocol import Assignment, TrialKind
from archsearch.registry import find, registered
from archsearch.spec.base import JsonObject
from archsearch.trial.context import check_final, numbers

if TYPE_CHECKING:
    from torch import nn

    from archsearch.space import Architecture, SearchSpace
    from archsearch.spec.experiment import EvaluatorSpec, ModelSpace
    from archsearch.trial.context import TrialContext


@dataclass(frozen=True)
class KindResult:
    """What a finished trial hands back: final metrics, all finite, and the payload of its kind (JSON)."""

    metrics: dict[str, float] = field(default_factory=dict)
    payload: Any = None


@dataclass(frozen=True)
class Setup:
    """What an assignment says about data: the named evaluator or the user's function, and the shapes that follow."""

    evaluator: Evaluator | UserEvaluator
    input_shape: tuple[int, ...] | None
    classes: int | None

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """Declared metrics; None for user code, which declares none."""
        return self.evaluator.metrics(self.evaluator.config) if isinstance(self.evaluator, Evaluator) else None

    def input(self) -> JsonObject:
        """``{shape, scaling}`` of one input, as architecture.json tells it; null what is not known."""
        scaling = self.evaluator.scaling() if isinstance(self.evaluator, Evaluator) else None
        return {
            "shape": list(self.input_shape) if self.input_shape is not None else None,
            "scaling": scaling.to_json() if scaling is not None else None,
        }


@dataclass(frozen=True)
class Network:
    """A chosen plain network, with what it was made from."""

    model: nn.Module
    architecture: Architecture
    space: SearchSpace
    model_space: ModelSpace  # with every argument filled in


def run_kind(context: TrialContext) -> KindResult:
    """Run the trial that `context.assignment` describes, in this process.

    describe:
        payload ``{space, digest, inputShape, classes, metrics}``: the space's document, what the evaluator says.
    evaluate:
        the final metrics; the final weights go to ``context.final_weights``.
    export:
        files below ``context.artifacts`` (see `archsearch.evaluate.export`); payload says what was written.

    Raises:
        UserError: the space, the user's code, the data or the configuration cannot be used.
        BadMetric: a metric is missing, NaN or infinite.
        TrialStopped, TrialReleased: the trial was told to end (from the context's checkpoint points).
    """
    kinds: dict[TrialKind, Callable[[TrialContext], KindResult]] = {
        TrialKind.DESCRIBE: _describe,
        TrialKind.EVALUATE: _evaluate,
        TrialKind.EXPORT: _export,
    }
    run = kinds.get(context.assignment.kind)
    if run is None:
        raise UserError(
            f"this version of archsearch runs no trials of the kind {context.assignment.kind.value!r}, only "
            f"{', '.join(sorted(kinds))}"
        )
    return run(context)


def preload() -> None:
    """Import what every trial needs, for the zygote: no data, no user code, CUDA untouched."""
    from archsearch.evaluate import training  # noqa: F401

    # Looking for entry points reads the metadata of every installed package.
    registered("archsearch.spaces")
    registered("archsearch.evaluators")


def set_up(spec: EvaluatorSpec, model_space: ModelSpace) -> Setup:
    """The evaluator of a manifest, configured.

    Raises:
        UserError: no such evaluator, function or option; or data that are not there.
    """
    declared = model_space.python.input_shape if model_space.python is not None else None
    shape = tuple(declared) if declared is not None else None
    if spec.python is not None:
        return Setup(UserEvaluator.find(spec.python, spec.config), shape, None)
    assert spec.name is not None  # noqa: S101  # one of the two, by the model's own check
    found = find("archsearch.evaluators", spec.name)
    if not (isinstance(found, type) and issubclass(found, Evaluator)):
        raise UserError(f"the evaluator {spec.name!r} is no subclass of archsearch.evaluate.Evaluator, it is {found!r}")
    evaluator = found.configure(spec.config)
    return Setup(evaluator, shape or found.input_shape(evaluator.config), found.classes(evaluator.config))


def network(assignment: Assignment, setup: Setup) -> Network:
    """The chosen plain network of an assignment, weights drawn from the random state.

    Raises:
        UserError: the space cannot be built, is another one than the search's, or does not hold the architecture.
    """
    if assignment.architecture is None:
        raise UserError(
            f"a trial of the kind {assignment.kind.value!r} needs an architecture, the assignment holds none"
        )
    whole, model_space = build_space(assignment.model_space, input_shape=setup.input_shape, classes=setup.classes)
    space = describe_space(whole)
    model, architecture = fixed(whole, space, assignment.architecture, assignment.space_digest)
    return Network(model, architecture, space, model_space)


def train(context: TrialContext, setup: Setup) -> tuple[Network | None, dict[str, float]]:
    """Seed, build and train the assignment's network: the same bits for the same seed, threads and device.

    Returns:
        The trained network (None for plain trial code, which keeps its own, and for an evaluator that needs none) and
        the final metrics.
    """
    assignment = context.assignment
    if isinstance(setup.evaluator, Evaluator) and not setup.evaluator.needs_network:
        model: Any = None
        return None, check_final(assignment, setup.evaluator.evaluate(model, context))
    seed_everything(context.seed, context.device)
    if isinstance(setup.evaluator, UserEvaluator) and setup.evaluator.plain:
        setup.evaluator.call(None, context)
        return None, _reported(context, setup.evaluator)
    found = network(assignment, setup)
    if isinstance(setup.evaluator, Evaluator):
        return found, check_final(assignment, setup.evaluator.evaluate(found.model, context))
    result = setup.evaluator.call(found.model, context)
    if result is None:
        return found, _reported(context, setup.evaluator)
    return found, check_final(assignment, _named(result, assignment))


def _describe(context: TrialContext) -> KindResult:
    assignment = context.assignment
    setup = set_up(assignment.evaluator, assignment.model_space)
    seed_everything(context.seed)
    model, _ = build_space(assignment.model_space, input_shape=setup.input_shape, classes=setup.classes)
    space = describe_space(model)
    return KindResult(
        payload={
            "space": space.to_json(),
            "digest": space.digest,
            "inputShape": list(setup.input_shape) if setup.input_shape is not None else None,
            "classes": setup.classes,
            "metrics": list(setup.metrics) if setup.metrics is not None else None,
        }
    )


def _evaluate(context: TrialContext) -> KindResult:
    setup = set_up(context.assignment.evaluator, context.assignment.model_space)
    found, metrics = train(context, setup)
    if found is not None:
        context.final_weights(found.model.state_dict(), {"input": setup.input()})
    return KindResult(metrics)


def _export(context: TrialContext) -> KindResult:
    from archsearch.evaluate.export import run_export

    return run_export(context)


def _reported(context: TrialContext, evaluator: UserEvaluator) -> dict[str, float]:
    if context.final_metrics is None:
        form = "" if evaluator.plain else ", or return the metrics"
        raise BadMetric(
            f"{evaluator.target} ended without a result: call archsearch.trial.report_final_result(value) in it{form}"
        )
    return check_final(context.assignment, context.final_metrics)


def _named(result: Any, assignment: Assignment) -> dict[str, float]:
    """What a user's function returned, by metric: a lone number is the first objective's."""
    if isinstance(result, dict):
        return numbers(result)
    first = assignment.objectives[0].metric if assignment.objectives else "default"
    return numbers({first: result})
