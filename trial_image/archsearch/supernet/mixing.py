"""Weighted sums of candidates' outputs, in fewer passes over memory than written out. Imports torch.

A supernet's step is bound by memory traffic: its candidates are many and small. So the usual beginning of a candidate,
a ReLU, is computed once for all candidates and edges that read the same tensor; the usual end, a batch normalization,
takes the candidate's weight as its own scale; what remains is multiplied and added in one pass; and the sum is taken in
place. Gradients are those of the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.supernet.batchnorm import NORMS, Norm, normalised

T = TypeVar("T")
POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


class Normalised(nn.Module):
    """A module whose output is normalised by channel with the statistics of the batch. No parameters, no state."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return normalised(self.module(*args, **kwargs), None)


class Activations:
    """What candidates without parameters make of the last few tensors, so that all edges that read one share it.

    Args:
        size: of how many tensors; they live until others take their place or `clear` is called. A cell of DARTS has 6,
            and with partial channels twice as many.
    """

    def __init__(self, size: int = 16) -> None:
        self._size = size
        self._held: dict[tuple[int, int, bool], tuple[Tensor, dict[Hashable, Any]]] = {}

    def of(self, x: Tensor, what: Hashable, make: Callable[[Tensor], T]) -> T:
        """``make(x)``, computed once for the same state of the same tensor."""
        if torch.compiler.is_compiling():
            return make(x)  # the compiler finds what is computed twice by itself
        key = (id(x), 0 if x.is_inference() else x._version, torch.is_grad_enabled())
        if key not in self._held:
            if len(self._held) >= self._size:
                del self._held[next(iter(self._held))]
            self._held[key] = (x, {})  # x stays alive, and with it its identity
        made = self._held[key][1]
        if what not in made:
            made[what] = make(x)
        return cast(T, made[what])

    def relu(self, x: Tensor) -> Tensor:
        """``relu(x)``."""
        return self.of(x, nn.ReLU, functional.relu)

    def clear(self) -> None:
        """Before a forward pass with a graph of its own."""
        self._held.clear()


def likeness(module: nn.Module) -> Hashable | None:
    """Equal for modules that make the same of the same tensor; None where that is not known. Pools have one."""
    if type(module) is Normalised:
        inner = likeness(module.module)
        return None if inner is None else (Normalised, inner)
    if not isinstance(module, POOLS) or type(module) not in POOLS or _hooked(module):
        return None
    return (type(module), *(f"{name}={value}" for name, value in vars(module).items() if not name.startswith("_")))


def is_zero(module: nn.Module) -> bool:
    """Whether a candidate gives zeros for every input: such classes say so by an attribute `gives_zeros`."""
    return bool(getattr(module, "gives_zeros", False))


def mix(
    modules: Sequence[nn.Module],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Tensor | None,
    activations: Activations | None = None,
) -> Any:
    """The sum of the modules' outputs, each times its weight; candidates that give zeros are not computed.

    Args:
        weights: (len(modules),), or None for a plain sum.
        activations: where candidates of several places share what they compute first.
    """
    computed = [i for i, module in enumerate(modules) if not is_zero(module)] or [len(modules) - 1]
    if weights is None:
        outputs = [modules[i](*args, **kwargs) for i in computed]
        return _sum(outputs)
    each = weights.unbind(0)
    if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
        return _sum([each[i] * modules[i](*args, **kwargs) for i in computed])
    shared = activations or Activations(1)
    total: Tensor | None = None
    for i in computed:
        total = _add(total, modules[i], args[0], each[i], shared)
    return total


def _sum(outputs: list[Any]) -> Any:
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


def _add(total: Tensor | None, module: nn.Module, x: Tensor, weight: Tensor, shared: Activations) -> Tensor:
    """``total + weight * module(x)``. `total` is this sum's own tensor, which no backward pass reads."""
    scaled = _scaled(module, x, weight, shared)
    if scaled is None:
        kind = likeness(module)
        output = cast(Tensor, module(x)) if kind is None else shared.of(x, kind, module)
        if total is None:
            return output * weight
        return total.addcmul_(output, weight) if _same(total, output) else total + output * weight
    if total is None:
        return scaled
    return total.add_(scaled) if _same(total, scaled) else total + scaled


def _same(total: Tensor, other: Tensor) -> bool:
    return total.dtype == other.dtype and total.shape == other.shape and not isinstance(total, nn.Parameter)


def _scaled(module: nn.Module, x: Tensor, weight: Tensor, shared: Activations) -> Tensor | None:
    """``weight * module(x)`` where the module ends in a normalization that can take the weight; else None."""
    if type(module) is Normalised and likeness(module) is None:
        return normalised(module.module(x), None, weight)
    if type(module) is not nn.Sequential and not _is_plain_sequence(module):
        return None
    parts = list(module.children())
    if not parts or type(parts[-1]) not in NORMS or _hooked(module) or _hooked(parts[-1]):
        return None
    if type(parts[0]) is nn.ReLU and not parts[0].inplace and not _hooked(parts[0]) and len(parts) > 1:
        x, parts = shared.relu(x), parts[1:]
    for part in parts[:-1]:
        x = part(x)
    return normalised(x, cast(Norm, parts[-1]), weight)


def _is_plain_sequence(module: nn.Module) -> bool:
    """A subclass of Sequential that does what Sequential does."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def logits_of(output: Any) -> tuple[Tensor, Tensor]:
    """A network's own output, and its mean with the auxiliary output where there is one (else the same)."""
    if not isinstance(output, (tuple, list)):
        return output, output
    main, auxiliary = output
    return main, main if auxiliary is None else (main + auxiliary) / 2
