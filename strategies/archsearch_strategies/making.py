"""From a manifest to a strategy that knows what its evaluator offers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from archsearch import registry
from archsearch.errors import UserError
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import EvaluatorSpec, ExperimentSpec
from archsearch_strategies.strategy import Strategy


def make_strategy(spec: ExperimentSpec) -> Strategy[Any]:
    """A new strategy of a checked manifest.

    Raises:
        UserError: none is registered under its name.
    """
    return named_strategy(spec.strategy.name, spec.strategy.config, evaluator_fidelities(spec.evaluator))


def named_strategy(name: str, config: JsonObject, fidelities: Sequence[int] = ()) -> Strategy[Any]:
    """A new strategy from its name, its options and what the evaluator offers.

    Raises:
        UserError: none is registered under the name.
        ValidationError: the options are not the strategy's.
    """
    found = registry.find("archsearch.strategies", name)
    strategy: Strategy[Any] = found(found.Config.model_validate(config))
    strategy.fidelities = fidelities
    return strategy


def evaluator_fidelities(spec: EvaluatorSpec) -> Sequence[int]:
    """What the manifest's evaluator offers; empty for user code, and for evaluators of another image."""
    if spec.name is None or spec.name not in registry.registered("archsearch.evaluators"):
        return ()
    try:
        found = registry.find("archsearch.evaluators", spec.name)
        known: Sequence[int] = found.fidelities(found.Config.model_validate(spec.config))
    except (UserError, ValidationError):  # told where the evaluator is checked
        return ()
    return known
