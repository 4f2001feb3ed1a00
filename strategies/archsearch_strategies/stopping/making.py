"""From a manifest to its stopping rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from archsearch.spec.experiment import Objective, StoppingSpec
from archsearch_strategies.stopping.asha import ASHAStopping
from archsearch_strategies.stopping.base import StoppingRule
from archsearch_strategies.stopping.median import MedianStopping

RULES: Mapping[str, type[StoppingRule]] = MappingProxyType({rule.name: rule for rule in (ASHAStopping, MedianStopping)})


def make_rule(spec: StoppingSpec | None, objectives: Sequence[Objective]) -> StoppingRule | None:
    """A new rule of a checked manifest; None where it names none."""
    if spec is None:
        return None
    rule = RULES[spec.name]
    return rule(rule.Config.model_validate(spec.config), objectives)
