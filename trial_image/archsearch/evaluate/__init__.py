"""How an architecture becomes metrics: evaluators, data sets, user code, export. Configuration models need no torch."""

from archsearch.evaluate.base import Evaluator, EvaluatorConfig

__all__ = ["Evaluator", "EvaluatorConfig"]
