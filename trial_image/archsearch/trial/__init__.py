"""Plain trial code: three functions, so that a training script written for NNI changes only an import.

Inside an experiment they speak to the search. Run by hand (`python train.py`) the first candidates are taken and
results are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from archsearch.errors import UserError
from archsearch.trial.context import TrialContext, TrialReleased, TrialStopped, current
from archsearch.trial.metrics import numbers

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "TrialContext",
    "get_and_apply_next_architecture",
    "report_final_result",
    "report_intermediate_result",
]

_steps = 0


def get_and_apply_next_architecture(model: nn.Module) -> None:
    """Turn `model`, which holds choices of `archsearch.nn`, into the network that this trial is to train, in place.

    Of the best trial the weights that the model has in the end are kept and exported. To be called before the model's
    parameters are given to an optimizer.

    Raises:
        UserError: the architecture does not fit the model.
    """
    from archsearch.nn import fix

    context = current()
    chosen = fix(model, context.assignment.architecture if context is not None else None)
    # `fix` gives a copy; taking over its state keeps every reference to `model` valid.
    model.__class__ = chosen.__class__
    model.__dict__.clear()
    model.__dict__.update(chosen.__dict__)
    if context is not None:
        context.model = model


def report_intermediate_result(value: Any) -> None:
    """Report a point of the learning curve: a number, or a dictionary of numbers whose `default` is the objective.

    The trial ends here when the search has seen enough of it, or when its worker has to go.
    """
    global _steps  # noqa: PLW0603
    context = current()
    if context is None:
        print(f"intermediate result: {value}", flush=True)  # noqa: T201 - standalone mode speaks to a person
        return
    _steps += 1
    context.report(_steps, _named(value, context))
    if context.should_stop:
        raise TrialStopped
    if context.should_release:
        raise TrialReleased


def report_final_result(value: Any) -> None:
    """Report the result, a number or a dictionary of numbers whose `default` is the objective. The last one counts."""
    context = current()
    if context is None:
        print(f"final result: {value}", flush=True)  # noqa: T201 - standalone mode speaks to a person
        return
    context.send_final(_named(value, context))


def _named(value: Any, context: TrialContext) -> dict[str, float]:
    objectives = context.assignment.objectives
    first = objectives[0].metric if objectives else "default"
    if not isinstance(value, Mapping):
        return numbers({first: value})
    if "default" in value and first in value and first != "default":
        raise UserError(f"the result has both 'default' and {first!r}, which are the same metric: leave one out")
    return numbers({first if name == "default" else name: number for name, number in value.items()})
