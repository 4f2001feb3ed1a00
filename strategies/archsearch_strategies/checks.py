"""Everything that a manifest alone tells, beyond its form: names, options, objectives, storage. No torch, no cluster.

`archsearch validate` and the driver run the same checks, so a file that passes here is refused later only for what lies
outside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from archsearch import registry
from archsearch.errors import UserError
from archsearch.evaluate.base import PROFILE_METRICS
from archsearch.protocol import TrialKind
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import (
    Constraint,
    EvaluatorSpec,
    ModelSpace,
    NASExperiment,
    Objective,
    OnDelete,
    Retention,
    Retrain,
    StoppingSpec,
    Storage,
    StrategySpec,
    WarmStart,
)
from archsearch.spec.explain import problems_of, suggest
from archsearch.spec.load import parse_experiment
from archsearch.spec.pods import DriverSpec, Trials
from archsearch.spec.problems import Problem, SpecError
from archsearch.spec.unsupported import unsupported_problems
from archsearch_strategies.making import evaluator_fidelities
from archsearch_strategies.stopping import RULES

if TYPE_CHECKING:
    from archsearch.store import Store

_QUANTITY = re.compile(r"^[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$")


@dataclass(frozen=True)
class _Parts:
    """The sections of a spec that can be checked: of an unsound one those that are sound themselves."""

    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    retrain: Retrain | None = None
    model_space: ModelSpace | None = None
    strategy: StrategySpec | None = None
    evaluator: EvaluatorSpec | None = None
    trials: Trials = field(default_factory=Trials)
    driver: DriverSpec = field(default_factory=DriverSpec)
    storage: Storage = field(default_factory=Storage)
    retention: Retention = field(default_factory=Retention)
    warm_start: list[WarmStart] = field(default_factory=list)
    stopping: StoppingSpec | None = None


def check_experiment(experiment: NASExperiment) -> list[Problem]:
    """Every fault that can be told without running anything; an empty list where there is none.

    Names that are registered only in another image (`driver.image`, `trials.image`) are left to that image.
    """
    spec = experiment.spec
    parts = _Parts(
        tuple(spec.objectives),
        tuple(spec.constraints),
        spec.retrain,
        spec.model_space,
        spec.strategy,
        spec.evaluator,
        spec.trials,
        spec.driver,
        spec.storage,
        spec.retention,
        spec.warm_start,
        spec.stopping,
    )
    return [*unsupported_problems(spec.to_json()), *_check(parts)]


def check_document(document: JsonObject) -> tuple[NASExperiment | None, list[Problem]]:
    """The experiment of a parsed manifest (None where it has not the form of one) and every problem at once."""
    try:
        experiment = parse_experiment(document)
    except SpecError as error:
        spec = document.get("spec")
        if not isinstance(spec, dict):
            return None, list(error.problems)
        return None, [*error.problems, *unsupported_problems(spec), *_check(_sound_parts(spec))]
    return experiment, check_experiment(experiment)


def _sound_parts(spec: JsonObject) -> _Parts:
    sound: dict[str, Any] = {}
    for name, annotation in get_type_hints(_Parts).items():
        try:
            raw = json.dumps(spec[to_camel(name)])
            sound[name] = TypeAdapter(annotation).validate_json(raw, strict=True, by_alias=True, by_name=False)
        except (KeyError, ValidationError):
            continue
    return _Parts(**sound)


def _check(parts: _Parts) -> list[Problem]:
    return [
        *_check_strategy(parts),
        *_check_stopping(parts.stopping),
        *_check_space(parts),
        *_check_evaluator(parts),
        *_check_constraints(parts.constraints),
        *_check_storage(parts.storage),
        *_check_retention(parts.retention),
        *_check_warm_start(parts),
        *_check_resources(parts.trials.template.resources, "spec.trials.template.resources"),
        *_check_resources(parts.driver.resources, "spec.driver.resources"),
        *_check_environment(parts.trials),
    ]


def check_config(model: type[BaseModel], config: JsonObject, path: str, within: str) -> tuple[Any, list[Problem]]:
    """A configuration parsed by its model, or None and its problems.

    Args:
        model: the `Config` of a strategy or an evaluator.
        path: where it stands, for example spec.strategy.config.
        within: whose options they are, for example "strategy 'random'".
    """
    try:
        return model.model_validate_json(json.dumps(config), strict=True, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, problems_of(error, model, config, prefix=path, within=within)


def _find(group: registry.Group, name: str, path: str, elsewhere: bool) -> tuple[Any, list[Problem]]:
    known = registry.registered(group)
    if name not in known:
        kind = {"archsearch.strategies": "strategy", "archsearch.spaces": "search space"}.get(group, "evaluator")
        problem = Problem(path, f"no {kind} is registered under this name", name, suggest(name, known))
        return None, [] if elsewhere else [problem]
    try:
        return registry.find(group, name), []
    except UserError as error:
        return None, [Problem(path, str(error), remedy="install what it imports")]


def _check_strategy(spec: _Parts) -> Iterator[Problem]:
    if spec.strategy is None:
        return
    name = spec.strategy.name
    strategy, problems = _find("archsearch.strategies", name, "spec.strategy.name", bool(spec.driver.image))
    yield from problems
    if strategy is None:
        return
    config, problems = check_config(strategy.Config, spec.strategy.config, "spec.strategy.config", f"strategy {name!r}")
    yield from problems
    if config is not None and spec.evaluator is not None:
        made = strategy(config)
        made.fidelities = evaluator_fidelities(spec.evaluator)
        yield from (Problem("spec.strategy.config", fault) for fault in made.check_fidelities())
    if len(spec.objectives) > 1 and not strategy.several_objectives:
        metrics = [objective.metric for objective in spec.objectives]
        yield Problem(
            "spec.objectives",
            f"strategy {name!r} improves one metric, and here are {len(metrics)}",
            metrics,
            f"keep one, or take a strategy for several: {', '.join(_for_several()) or 'none is registered'}",
        )
    if spec.trials.nodes > 1 and TrialKind.SUPERNET not in strategy.kinds:
        yield Problem(
            "spec.trials.nodes",
            f"strategy {name!r} submits no supernet trials, and other trials run in one pod",
            spec.trials.nodes,
            "leave it at 1, or take a strategy that trains a supernet",
        )


def _check_stopping(stopping: StoppingSpec | None) -> list[Problem]:
    if stopping is None:
        return []
    name = stopping.name.value
    return check_config(RULES[name].Config, stopping.config, "spec.stopping.config", f"stopping rule {name!r}")[1]


def _for_several() -> list[str]:
    names = registry.registered("archsearch.strategies")
    return [name for name in names if getattr(_loaded(name), "several_objectives", False)]


def _loaded(name: str) -> Any:
    try:
        return registry.find("archsearch.strategies", name)
    except UserError:
        return None


def _check_space(spec: _Parts) -> Iterator[Problem]:
    """A space's module imports torch, so only its name is checked here; its arguments are by the describe trial."""
    zoo = spec.model_space.zoo if spec.model_space is not None else None
    known = registry.registered("archsearch.spaces")
    if zoo is not None and zoo.name not in known and not spec.trials.image:
        message = "no search space is registered under this name"
        yield Problem("spec.modelSpace.zoo.name", message, zoo.name, suggest(zoo.name, known))


def _check_evaluator(spec: _Parts) -> Iterator[Problem]:
    if spec.evaluator is None or spec.evaluator.name is None:
        return
    name = spec.evaluator.name
    evaluator, problems = _find("archsearch.evaluators", name, "spec.evaluator.name", bool(spec.trials.image))
    yield from problems
    if evaluator is None:
        return
    config, problems = check_config(
        evaluator.Config, spec.evaluator.config, "spec.evaluator.config", f"evaluator {name!r}"
    )
    yield from problems
    if config is None:
        return
    if spec.retrain is not None:
        whole = {**spec.evaluator.config, **spec.retrain.config}
        within = f"evaluator {name!r}"
        yield from check_config(evaluator.Config, whole, "spec.retrain.config", within)[1]
    declared = list(evaluator.metrics(config))
    named = {f"objectives[{index}]": each.metric for index, each in enumerate(spec.objectives)}
    named |= {f"constraints[{index}]": each.metric for index, each in enumerate(spec.constraints)}
    for place, metric in named.items():
        if metric not in (*declared, *PROFILE_METRICS):
            yield Problem(
                f"spec.{place}.metric",
                f"evaluator {name!r} reports no such metric, only {', '.join(declared)}; "
                f"{', '.join(PROFILE_METRICS)} can be had of any network",
                metric,
                _close(metric, [*declared, *PROFILE_METRICS]),
            )


def _check_constraints(constraints: tuple[Constraint, ...]) -> Iterator[Problem]:
    for index, constraint in enumerate(constraints):
        low, high = constraint.min, constraint.max
        if low is not None and high is not None and float(low) > float(high):
            path = f"spec.constraints[{index}]"
            yield Problem(path, f"min {low} is more than max {high}", remedy="exchange them, or leave one out")


def _close(word: str, known: list[str]) -> str:
    hint = suggest(word, known)
    return hint if hint.startswith("did") else "name one of these"


def _check_storage(storage: Storage) -> Iterator[Problem]:
    if not storage.uri:
        if storage.endpoint:
            message = "has an endpoint but no uri"
            yield Problem("spec.storage", message, remedy="give uri: s3://bucket/prefix, or leave the endpoint out")
        return
    from archsearch.store import open_at

    try:
        open_at(storage, storage.uri)
    except UserError as error:
        field = "endpoint" if "endpoint" in str(error) else "uri"
        yield Problem(f"spec.storage.{field}", str(error))


def _check_warm_start(spec: _Parts) -> Iterator[Problem]:
    """Their form alone: a run that goes on needs its earlier runs no more."""
    seen: dict[str, int] = {}
    for index, each in enumerate(spec.warm_start):
        path = f"spec.warmStart[{index}].uri"
        try:
            uri = _opened(each, spec.storage).uri
        except UserError as error:
            yield Problem(path, str(error))
            continue
        if uri in seen:
            message = f"is the run of spec.warmStart[{seen[uri]}] once more"
            yield Problem(path, message, each.uri, "name each run once")
        seen.setdefault(uri, index)


def missing_runs(experiment: NASExperiment) -> list[Problem]:
    """Folders that `spec.warmStart` names and in which no run is. What lies in a bucket cannot be told offline."""
    found = []
    for index, each in enumerate(experiment.spec.warm_start):
        uri = _opened(each, experiment.spec.storage).uri
        if uri.startswith("/") and not Path(uri, "ledger").is_dir():
            message = "no run of archsearch is there: the folder has no ledger/"
            remedy = "give the folder that `archsearch run` has named, or an s3:// URI"
            found.append(Problem(f"spec.warmStart[{index}].uri", message, each.uri, remedy))
    return found


def _opened(run: WarmStart, storage: Storage) -> Store:
    from archsearch.store import open_at

    return open_at(storage, run.uri)


def _check_retention(retention: Retention) -> Iterator[Problem]:
    if retention.on_delete is OnDelete.DELETE:
        message = "is not supported yet: nothing empties the bucket"
        yield Problem(
            "spec.retention.onDelete", message, "Delete", "leave it at Retain and remove the run's folder yourself"
        )


def _check_resources(resources: JsonObject, path: str) -> Iterator[Problem]:
    for part, amounts in resources.items():
        if part not in ("limits", "requests", "claims"):
            yield Problem(f"{path}.{part}", "no such field", amounts, suggest(part, ["limits", "requests", "claims"]))
        elif part != "claims":
            yield from _check_amounts(amounts, f"{path}.{part}")


def _check_amounts(amounts: Any, path: str) -> Iterator[Problem]:
    if not isinstance(amounts, dict):
        yield Problem(
            path, "expected a mapping of resources to quantities", amounts, 'for example {cpu: "2", memory: 4Gi}'
        )
        return
    for name, amount in amounts.items():
        plain = isinstance(amount, (int, float, str)) and not isinstance(amount, bool)
        if not plain or not _QUANTITY.match(str(amount)):
            yield Problem(f"{path}.{name}", "expected a quantity", amount, "for example 2, 500m or 4Gi")


def _check_environment(trials: Trials) -> Iterator[Problem]:
    for index, variable in enumerate(trials.template.env):
        path = f"spec.trials.template.env[{index}]"
        name = variable.get("name")
        if not isinstance(name, str) or not name:
            yield Problem(path, "an environment variable needs a name", variable, "write {name: NAME, value: text}")
        elif name.startswith("ARCHSEARCH_"):
            yield Problem(
                f"{path}.name", "names that start with ARCHSEARCH_ are archsearch's own", name, "use another name"
            )
        elif "value" in variable and not isinstance(variable["value"], str):
            yield Problem(f"{path}.value", "expected text", variable["value"], "put it in quotes")
