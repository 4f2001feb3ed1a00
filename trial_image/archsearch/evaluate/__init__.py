"""How an architecture becomes metrics: evaluators, data sets, user code, export. The configuration models import without torch."""

from archsearch.evaluate.base import Evaluator, EvaluatorConfig

__all__ = ["Evaluator", "EvaluatorConfig"]
