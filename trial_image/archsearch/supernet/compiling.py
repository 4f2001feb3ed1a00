"""Mixtures compiled: torch.compile of a supernet's forward and backward pass, where there is a compiler. Imports torch.

The weights of the mixtures are inputs of what is compiled, so that nothing is compiled anew when they change; it is for
another shape of the batch, another mode, or another set of candidates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from archsearch.supernet.network import Mixture, Supernet

logger = logging.getLogger(__name__)


class Compiled:
    """A supernet's network, called like it. What is no mixture, or needs no gradients, runs as it is.

    Where compiling fails, a warning says why, once, and all goes on without.

    Args:
        backend: of `torch.compile`.
    """

    def __init__(self, supernet: Supernet, *, backend: str | Callable[..., Any] = "inductor") -> None:
        self.supernet = supernet
        self.works = not any(module._forward_hooks for module in supernet.model.modules())
        if not self.works:
            logger.warning("goes on without compiling: the network has hooks, which may change from step to step")
        self._run: Callable[[Tensor, tuple[Tensor, ...]], Any] = torch.compile(
            self._forward, backend=backend, fullgraph=True, dynamic=False
        )
        self._plan: dict[str, Mixture] = {}
        self._names: tuple[str, ...] = ()

    def __call__(self, inputs: Tensor) -> Any:
        supernet = self.supernet
        if not self.works or supernet.architecture is not None or not torch.is_grad_enabled():
            return supernet.model(inputs)
        followed = supernet.followed()
        weights = {name: each.weights for name, each in followed.items() if each.weights is not None}
        plan = {name: replace(each, weights=None) for name, each in followed.items()}
        if plan != self._plan:  # the same object as long as nothing else changes: it is part of what is compiled
            self._plan, self._names = plan, tuple(weights)
        try:
            return self._run(inputs, tuple(weights.values()))
        except Exception as error:
            if not _of_compiler(error):
                raise
            self.works = False
            reason = " ".join(str(error).split())[:300] or "no reason"
            logger.warning("goes on without compiling: %s: %s", type(error).__name__, reason)
            return supernet.model(inputs)
        finally:
            supernet.mix(followed)

    def _forward(self, inputs: Tensor, weights: tuple[Tensor, ...]) -> Any:
        given = dict(zip(self._names, weights, strict=True))
        self.supernet._mixtures = {name: type(each)(each.chosen, given.get(name)) for name, each in self._plan.items()}
        return self.supernet.model(inputs)


def _of_compiler(error: Exception) -> bool:
    module = type(error).__module__
    return module.startswith(("torch._dynamo", "torch._inductor", "torch._functorch", "triton"))
