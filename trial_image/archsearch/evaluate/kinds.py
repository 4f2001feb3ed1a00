"""What a trial child does for each kind of trial. Imports torch: for trial children and the zygote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.base import CONFIG_PATH, PROFILE_METRICS, Evaluator
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import REPEATS, Inputs, device_name, parameters, profile_metrics
from archsearch.evaluate.models import arguments, build_space, describe_space, fixed
from archsearch.evaluate.origin import origin
from archsearch.evaluate.user import UserEvaluator
from archsearch.nn import fix
from archsearch.nn.checking import check
from archsearch.protocol import Assignment, KeepWeights, TrialKind
from archsearch.registry import find, registered
from archsearch.spec.base import JsonObject
from archsearch.trial.context import Infeasible
from archsearch.trial.metrics import check_final, numbers

if TYPE_CHECKING:
    from torch import nn

    from archsearch.space import Architecture, SearchSpace
    from archsearch.spec.experiment import EvaluatorSpec, ModelSpace
    from archsearch.trial.context import TrialContext


RETRAIN_PATH = "spec.retrain.config"
_NO_SHAPE = "the shape of one input is not known; give modelSpace.python.inputShape"


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
    arguments: dict[str, int] = field(default_factory=dict)
    wishes: JsonObject = field(default_factory=dict)

    def build(self, model_space: ModelSpace) -> tuple[nn.Module, ModelSpace]:
        """The network with all its choices, arguments filled in from data and configuration."""
        return build_space(
            model_space,
            input_shape=self.input_shape,
            classes=self.classes,
            arguments=self.arguments,
            wishes=self.wishes,
        )

    def inputs(self) -> Inputs | None:
        """What one input is; None where it is not known."""
        return Inputs(self.input_shape, self.arguments.get("vocabulary", 0)) if self.input_shape is not None else None

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """Declared metrics; None for user code, which declares none."""
        return self.evaluator.metrics(self.evaluator.config) if isinstance(self.evaluator, Evaluator) else None

    def input(self) -> JsonObject:
        """``{shape, scaling}`` of one input, as architecture.json tells it; of text also `tokens`."""
        named = self.evaluator if isinstance(self.evaluator, Evaluator) else None
        scaling, tokens = (named.scaling(), named.tokens()) if named is not None else (None, None)
        return {
            "shape": list(self.input_shape) if self.input_shape is not None else None,
            "scaling": scaling.to_json() if scaling is not None else None,
            **({"tokens": tokens} if tokens is not None else {}),
        }

    def output(self) -> JsonObject | None:
        """What the network's outputs mean, as architecture.json tells it; None where nothing is to be said."""
        return self.evaluator.output() if isinstance(self.evaluator, Evaluator) else None


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
        payload ``{space, digest, inputShape, classes, metrics, origin}``: the space's document, what the evaluator
        says, and the digests of code and data (`archsearch.evaluate.origin`).
    evaluate:
        the final metrics, with those of `PROFILE_METRICS` that an objective or constraint names; the final weights go
        to ``context.final_weights``.
    retrain:
        as evaluate, with ``params.config`` laid over the evaluator's; the final weights are always kept.
    profile:
        the metrics of `PROFILE_METRICS`, or those of them in ``params.metrics``; payload ``{device, threads, repeats,
        inputShape}``: how latency was measured.
    proxy:
        no metrics; payload: zero-cost scores of ``params.architectures`` (see `archsearch.evaluate.proxies.trial`).
    supernet, inherit:
        see `archsearch.supernet.run`. An inherit trial has no weights of its own to hand over.
    export:
        files below ``context.artifacts`` (see `archsearch.evaluate.export`); payload says what was written.

    Raises:
        UserError: the space, the user's code, the data or the configuration cannot be used.
        BadMetric: a metric is missing, NaN or infinite.
        Infeasible: a constraint on `PROFILE_METRICS` is not kept; nothing was trained.
        TrialStopped, TrialReleased: the trial was told to end (from the context's checkpoint points).
    """
    kinds: dict[TrialKind, Callable[[TrialContext], KindResult]] = {
        TrialKind.DESCRIBE: _describe,
        TrialKind.EVALUATE: _evaluate,
        TrialKind.RETRAIN: _retrain,
        TrialKind.PROFILE: _profile,
        TrialKind.EXPORT: _export,
        TrialKind.SUPERNET: _supernet,
        TrialKind.INHERIT: _inherit,
        TrialKind.PROXY: _proxy,
    }
    return kinds[context.assignment.kind](context)


def preload() -> None:
    """Import what every trial needs, for the zygote: no data, no user code, CUDA untouched."""
    from archsearch.evaluate import tasks, training  # noqa: F401
    from archsearch.zoo import operations  # noqa: F401

    # Looking for entry points reads the metadata of every installed package.
    registered("archsearch.spaces")
    registered("archsearch.evaluators")


def set_up(spec: EvaluatorSpec, model_space: ModelSpace, path: str = CONFIG_PATH) -> Setup:
    """The evaluator of a manifest, configured; `path` is where its options stand, for messages.

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
    evaluator = found.configure(spec.config, path)
    config = evaluator.config
    return Setup(
        evaluator,
        shape or found.input_shape(config),
        found.classes(config),
        found.arguments(config),
        found.wishes(config),
    )


def network(assignment: Assignment, setup: Setup) -> Network:
    """The chosen plain network of an assignment, weights drawn from the random state.

    Raises:
        UserError: the space cannot be built, is another one than the search's, or does not hold the architecture.
    """
    if assignment.architecture is None:
        raise UserError(
            f"a trial of the kind {assignment.kind.value!r} needs an architecture, the assignment holds none"
        )
    whole, model_space = setup.build(assignment.model_space)
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
        costs = _costs(context, setup, lambda: network(assignment, setup).model)
        seed_everything(context.seed, context.device)
        setup.evaluator.call(None, context)
        return None, _reported(context, setup.evaluator, costs)
    found = network(assignment, setup)
    costs = _costs(context, setup, lambda: found.model)
    if isinstance(setup.evaluator, Evaluator):
        return found, check_final(assignment, {**costs, **setup.evaluator.evaluate(found.model, context)})
    result = setup.evaluator.call(found.model, context)
    if result is None:
        return found, _reported(context, setup.evaluator, costs)
    return found, check_final(assignment, {**costs, **_named(result, assignment)})


def _costs(context: TrialContext, setup: Setup, model: Callable[[], nn.Module]) -> dict[str, float]:
    """What objectives and constraints name of `PROFILE_METRICS`; Infeasible where a constraint is not kept."""
    assignment = context.assignment
    asked = [*(each.metric for each in assignment.objectives), *(each.metric for each in assignment.constraints)]
    named = set(asked) & set(PROFILE_METRICS)
    if not named:
        return {}
    inputs = setup.inputs()
    if inputs is not None:
        found = _measure(context, sorted(named), model(), inputs)
    else:  # user code may tell the others itself
        found = {"params": float(parameters(model()))} if "params" in named else {}
    for constraint in assignment.constraints:
        if constraint.metric not in PROFILE_METRICS:
            continue  # only training tells it
        if constraint.metric not in found:
            raise UserError(f"the constraint on {constraint.metric} cannot be checked before training: {_NO_SHAPE}")
        value, low, high = found[constraint.metric], constraint.min, constraint.max
        if (low is not None and value < float(low)) or (high is not None and value > float(high)):
            raise Infeasible(
                f"{constraint.metric} is {value:g}, outside the constraint "
                f"({'' if low is None else f'min {low}'}{'' if low is None or high is None else ', '}"
                f"{'' if high is None else f'max {high}'}): not trained"
            )
    return found


def _measure(context: TrialContext, names: Sequence[str], model: nn.Module, inputs: Inputs) -> dict[str, float]:
    if not inputs.tokens and getattr(model, "input_dtype", None) is torch.int64:
        inputs = Inputs(inputs.shape, tokens=2)  # any numbers will do, and those every vocabulary has
    lock = context.cache / "latency.lock"
    return profile_metrics(names, model.to(context.device), inputs, threads=context.threads, lock=lock)


def _describe(context: TrialContext) -> KindResult:
    assignment = context.assignment
    setup = set_up(assignment.evaluator, assignment.model_space)
    seed_everything(context.seed)
    model, _ = setup.build(assignment.model_space)
    space = describe_space(model)
    if assignment.model_space.python is not None and setup.input_shape is not None:
        # One faulty candidate would fail a share of all trials, each after its own start.
        check(model, setup.input_shape, same_output=isinstance(setup.evaluator, Evaluator))
    return KindResult(
        payload={
            "space": space.to_json(),
            "digest": space.digest,
            "inputShape": list(setup.input_shape) if setup.input_shape is not None else None,
            "classes": setup.classes,
            "metrics": list(setup.metrics) if setup.metrics is not None else None,
            "origin": origin(assignment.model_space, assignment.evaluator, setup.evaluator),
        }
    )


def _evaluate(context: TrialContext) -> KindResult:
    return _train(context, set_up(context.assignment.evaluator, context.assignment.model_space))


def _train(context: TrialContext, setup: Setup) -> KindResult:
    found, metrics = train(context, setup)
    if found is not None:
        context.final_weights(
            found.model.state_dict(),
            {"input": setup.input(), "output": setup.output(), "args": arguments(found.model_space)},
        )
    return KindResult(metrics)


def _retrain(context: TrialContext) -> KindResult:
    assignment = laid_over(context.assignment)
    context.assignment = assignment.model_copy(update={"keep_weights": KeepWeights.ALWAYS})
    return _train(context, set_up(assignment.evaluator, assignment.model_space, RETRAIN_PATH))


def laid_over(assignment: Assignment) -> Assignment:
    """The assignment with ``params.config`` laid over the evaluator's configuration, option by option."""
    extra = assignment.params.get("config") or {}
    if not isinstance(extra, dict):
        raise UserError(f"{RETRAIN_PATH} must be a mapping of options, it is {extra!r:.80}")
    evaluator = assignment.evaluator.model_copy(update={"config": {**assignment.evaluator.config, **extra}})
    return assignment.model_copy(update={"evaluator": evaluator})


def _profile(context: TrialContext) -> KindResult:
    assignment = context.assignment
    setup = set_up(assignment.evaluator, assignment.model_space)
    seed_everything(context.seed, context.device)
    inputs = setup.inputs()
    if inputs is None:
        raise UserError(f"nothing can be measured: {_NO_SHAPE}")
    names = assignment.params.get("metrics") or list(PROFILE_METRICS)
    unknown = sorted(set(names) - set(PROFILE_METRICS))
    if unknown:
        raise UserError(f"a profile has no metric {unknown[0]!r}; it has {', '.join(PROFILE_METRICS)}")
    metrics = _measure(context, names, network(assignment, setup).model, inputs)
    device = torch.device(context.device)
    return KindResult(
        metrics,
        {
            "device": device_name(device),
            "threads": context.threads,
            "repeats": REPEATS,
            "inputShape": list(inputs.shape),
        },
    )


def _proxy(context: TrialContext) -> KindResult:
    from archsearch.evaluate.proxies.trial import score_all

    assignment = context.assignment
    return KindResult(payload=score_all(context, set_up(assignment.evaluator, assignment.model_space)))


def _supernet(context: TrialContext) -> KindResult:
    from archsearch.supernet.run import run_supernet

    return KindResult(*run_supernet(context, set_up(context.assignment.evaluator, context.assignment.model_space)))


def _inherit(context: TrialContext) -> KindResult:
    from archsearch.supernet.run import build_overlaid, inherited, run_inherit

    assignment = context.assignment
    setup = set_up(assignment.evaluator, assignment.model_space)
    if assignment.architecture is None:
        raise UserError("a trial of the kind 'inherit' needs an architecture, the assignment holds none")
    seed_everything(context.seed, context.device)
    whole, space, _ = build_overlaid(setup, assignment)
    architecture = space.validate(assignment.architecture)
    narrow = bool(assignment.params.get("modelArgs"))
    # Of the network that the search is for, which the supernet may be a smaller one of; no weights are read for what
    # costs too much.
    costs = _costs(context, setup, lambda: network(assignment, setup).model if narrow else fix(whole, architecture))
    model = inherited(context, whole, architecture)
    return KindResult(check_final(assignment, {**costs, **run_inherit(context, setup, model)}))


def _export(context: TrialContext) -> KindResult:
    from archsearch.evaluate.export import run_export

    return run_export(context)


def _reported(context: TrialContext, evaluator: UserEvaluator, costs: Mapping[str, float]) -> dict[str, float]:
    if context.final_metrics is None:
        form = "" if evaluator.plain else ", or return the metrics"
        raise BadMetric(
            f"{evaluator.target} ended without a result: call archsearch.trial.report_final_result(value) in it{form}"
        )
    return check_final(context.assignment, {**costs, **context.final_metrics})


def _named(result: Any, assignment: Assignment) -> dict[str, float]:
    """What a user's function returned, by metric: a lone number is the first objective's."""
    if isinstance(result, dict):
        return numbers(result)
    first = assignment.objectives[0].metric if assignment.objectives else "default"
    return numbers({first: result})
