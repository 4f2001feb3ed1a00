"""Whether the candidates of a supernet's choices can be mixed at all, found out on two examples. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn.mutables import InputChoice
from archsearch.space import Categorical, Subset
from archsearch.supernet.network import Mixer, Mixture, Supernet
from archsearch.supernet.norms import frozen_statistics


def check_mixable(supernet: Supernet, inputs: Tensor) -> None:
    """One forward pass of all candidates, before time is spent: their outputs must be tensors of one shape.

    Nothing is left behind: neither statistics nor random numbers that dropout took.

    Args:
        inputs: a few prepared examples, (n, …), n at least 2.

    Raises:
        UserError: candidates whose outputs differ in shape, or are no tensors; an input choice that concatenates or
            lists its inputs, of which not all are chosen. Names the choice.
    """
    _check_reductions(supernet)
    before = supernet.mixers
    devices = [inputs.device] if inputs.is_cuda else []
    supernet.mixers = {name: _comparing(name, supernet) for name in supernet.layers}
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=devices),
            frozen_statistics(supernet.model),
            supernet.mixing(even(supernet)),
        ):
            supernet.model(inputs)
    finally:
        supernet.mixers = before


def even(supernet: Supernet) -> dict[str, Mixture]:
    """All candidates of all layer choices, weighted alike."""
    device = next((p.device for p in supernet.model.parameters()), torch.device("cpu"))
    return {
        name: Mixture(tuple(range(len(c.options))), torch.full((len(c.options),), 1 / len(c.options), device=device))
        for name, c in supernet.choices.items()
        if isinstance(c, Categorical)
    }


def _check_reductions(supernet: Supernet) -> None:
    for module in supernet.model.modules():
        if not isinstance(module, InputChoice) or module.reduction not in ("concat", "none"):
            continue
        choice = supernet.choices[supernet.name(module)]
        if isinstance(choice, Subset) and choice.choose != len(choice.options):
            what = "concatenates" if module.reduction == "concat" else "lists"
            raise UserError(
                f"{choice.where} {what} its inputs, so that their number shows in its output's shape: it cannot be "
                "mixed; give it reduction sum or mean, or take a strategy that samples (spos, enas)"
            )


def _comparing(name: str, supernet: Supernet) -> Mixer:
    options = supernet.choices[name].options

    def compare(modules: Sequence[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], mixture: Mixture) -> Any:
        first: Tensor | None = None
        total: Any = None
        for i, module in zip(mixture.chosen, modules, strict=True):
            output = module(*args, **kwargs)
            if not isinstance(output, Tensor):
                raise UserError(
                    f"choice {name!r}: candidate {options[i]!r} gives a {type(output).__name__}; only tensors can be "
                    "mixed: take a strategy that samples (spos, enas)"
                )
            first = output if first is None else first
            if output.shape != first.shape:
                raise UserError(
                    f"choice {name!r}: candidate {options[i]!r} gives the shape {tuple(output.shape)}, candidate "
                    f"{options[mixture.chosen[0]]!r} {tuple(first.shape)}: a mixture needs equal shapes; make them "
                    "equal, or take a strategy that samples (spos, enas)"
                )
            total = output if total is None else total + output
        return total / len(modules)

    return compare
