"""Early stopping, laid over any strategy: rules that see learning curves and end trials that fall behind."""

from __future__ import annotations

from archsearch_strategies.stopping.asha import ASHAStopping
from archsearch_strategies.stopping.base import StoppingRule
from archsearch_strategies.stopping.making import RULES, make_rule
from archsearch_strategies.stopping.median import MedianStopping

__all__ = ["RULES", "ASHAStopping", "MedianStopping", "StoppingRule", "make_rule"]
