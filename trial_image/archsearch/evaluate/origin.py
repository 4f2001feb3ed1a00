"""Digests of the code and the data that trials depend on: what tells whether a result may be taken over. No torch."""

from __future__ import annotations

from typing import Any

from archsearch.errors import UserError
from archsearch.evaluate.base import Evaluator
from archsearch.evaluate.bundle import code_digest, user_code
from archsearch.registry import find
from archsearch.space import digest
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace


def origin(model_space: ModelSpace, spec: EvaluatorSpec, evaluator: Any) -> JsonObject:
    """Digests of code and data; call it when the space is built and the evaluator found, since their modules count.

    Args:
        evaluator: the named evaluator, configured; or what calls the user's function.

    Returns:
        ``{code, data}``. `code`: SHA-256 over the sources of the space's and the evaluator's modules and of what lies
        beside them, archsearch's own left out (its version tells them). `data`: SHA-256 by data set. Each None where
        it is not known: the data that a user's own function reads never are.
    """
    return {"code": _code(_modules(model_space, spec)), "data": _data(evaluator)}


def _modules(model_space: ModelSpace, spec: EvaluatorSpec) -> list[str]:
    """The modules that the space and the evaluator come from, but for archsearch's own."""
    found = [
        target.partition(":")[0] for target in (model_space.python and model_space.python.class_, spec.python) if target
    ]
    if model_space.zoo is not None:
        found.append(str(find("archsearch.spaces", model_space.zoo.name).__module__))
    if spec.name is not None:
        found.append(str(find("archsearch.evaluators", spec.name).__module__))
    return sorted({name for name in found if name.partition(".")[0] != "archsearch"})


def _code(modules: list[str]) -> str | None:
    try:
        return digest({name: code_digest(user_code(name)) for name in modules})
    except (UserError, OSError):  # compiled, or written by a program
        return None


def _data(evaluator: Any) -> JsonObject | None:
    if not isinstance(evaluator, Evaluator):
        return None
    try:
        return evaluator.data_digests(evaluator.config)
    except (UserError, OSError):  # a trial says it better
        return None
