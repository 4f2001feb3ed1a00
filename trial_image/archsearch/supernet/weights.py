"""Shared weights on their way between trials. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.supernet.elastic import widen

OTHER = "@"
"""Before the names of tensors in a supernet's checkpoint that are not the network's own."""


def load_shared(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network with all its choices the weights of a supernet's checkpoint.

    Raises:
        UserError: the checkpoint is of another network; the text names the first difference.
    """
    widen(model)
    given = {name: value for name, value in tensors.items() if not name.startswith(OTHER)}
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    what = f"the checkpoint is no supernet of {type(model).__name__}"
    for name, value in wanted.items():
        if name not in given:
            raise UserError(f"{what}: it has no {name}; give the number of a supernet trial of this search space")
        if given[name].shape != value.shape:
            raise UserError(f"{what}: {name} is {tuple(given[name].shape)} in it and {tuple(value.shape)} here")
    if surplus := sorted(set(given) - set(wanted)):
        raise UserError(f"{what}: it has {surplus[0]}, which the network does not; its arguments changed")
    model.load_state_dict(given)


@contextmanager
def without_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Forward passes in here take these parameters as constants: their backward passes have less to keep and to do."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
