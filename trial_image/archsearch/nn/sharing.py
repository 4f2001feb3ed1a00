"""One module with chosen arguments on the parameters of the largest one: which part of them each choice has.

The part of a tensor is its leading slice in every dimension, but for three cases: kernels of convolutions are taken
from the middle (Cai 2020, "Once-for-All", section 3.3, without the transforms), grouped convolutions take the blocks on
the diagonal of an ungrouped one, and tensors that are several equal ones behind each other (the gates of an LSTM, the
queries, keys and values of an attention) are cut one by one. A module of one's own names such tensors in a class
attribute ``packed = {"projection.weight": 3}``, by their names below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from archsearch.errors import UserError

if TYPE_CHECKING:
    from archsearch.nn.values import ValueModule

Cut = Callable[[Tensor], Tensor]
Holder = dict[str, Any]  # a module's own parameters or buffers

_DRAWS = {getattr(Tensor, name) for name in ("normal_", "uniform_", "log_normal_", "exponential_", "bernoulli_")}
_DRAWS |= {value for name, value in vars(nn.init).items() if name.endswith("_") and callable(value)}
_GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}


class Variant:
    """A module for one combination of its chosen arguments, computed on its part of the widest one's tensors.

    Gradients flow into the widest one's parameters; statistics of batch normalizations are updated there.

    Args:
        module: widened (`ValueModule.widest` is known), its parameters where they are to be used.
        value: gives the values of the chosen arguments.

    Raises:
        UserError: it has none of the widest one's parameters to share.
    """

    def __init__(self, module: ValueModule, value: Callable[[Any], Any]) -> None:
        self._whole = module.inner
        self._plain = bare(module, value)
        self._cuts = list(cuts(self._plain, self._whole))
        self._constants = {}
        if any(is_constant(self._plain, name) for name, _ in self._plain.named_buffers()):
            with torch.random.fork_rng(devices=[]):
                made = module.make(value)
            self._constants = {n: buffer for n, buffer in made.named_buffers() if is_constant(made, n)}
        self._twins = [(twin, self._whole.get_submodule(name)) for name, twin in self._plain.named_modules()]
        self._momenta = [twin.momentum if isinstance(twin, _NormBase) else None for twin, _ in self._twins]

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for (twin, own), momentum in zip(self._twins, self._momenta, strict=True):
            twin.training = own.training
            if isinstance(twin, _NormBase):  # what passes with frozen or measured statistics change
                twin.track_running_stats = bool(own.track_running_stats)
                twin.momentum = None if own.momentum is None else momentum
        tensors: dict[str, Tensor] = {name: cut(holder[key]) for name, holder, key, cut in self._cuts}
        if self._constants:
            device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
            self._constants = {name: tensor.to(device) for name, tensor in self._constants.items()}
            tensors |= self._constants
        return functional_call(self._plain, tensors, args, kwargs)


class _Undrawn(TorchFunctionMode):
    """Draws nothing: without storage there is nothing to draw, and the first draw would load torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWS:
            return func(*args, **kwargs)
        return args[0] if args else kwargs["tensor"]


def bare(module: ValueModule, value: Callable[[Any], Any]) -> nn.Module:
    """The plain module without storage. One that cannot be made so is made, and its storage given up."""
    try:
        with torch.device("meta"), _Undrawn():
            return module.make(value)
    except (RuntimeError, NotImplementedError):
        with torch.random.fork_rng(devices=[]):
            return module.make(value).to("meta")


def give(made: nn.Module, whole: nn.Module) -> None:
    """Copy the parts of the widest module's tensors into a plain one."""
    with torch.no_grad():
        for name, holder, key, cut in cuts(made, whole):
            path, _, own = name.rpartition(".")
            getattr(made.get_submodule(path), own).copy_(cut(holder[key]))


def cuts(plain: nn.Module, whole: nn.Module) -> Iterator[tuple[str, Holder, str, Cut]]:
    """Of each tensor that `plain` shares: its name, where `whole` holds it and by what name, and what cuts it out.

    Raises:
        UserError: `whole` lacks one, or has a smaller one.
    """
    packed = _packed(plain)
    theirs = dict(whole.named_modules())
    for path, owner in plain.named_modules():
        for own, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
            name = f"{path}.{own}" if path else own
            if tensor is None or (own in owner._buffers and is_constant(plain, name)):
                continue
            other = theirs.get(path)
            kept = "_parameters" if own in owner._parameters else "_buffers"
            holder: Holder = getattr(other, kept) if other is not None else {}
            if holder.get(own) is None:
                raise UserError(f"only some choices have {name}")
            yield name, holder, own, _cut(name, owner, other, own, tensor.shape, holder[own].shape, packed)


def is_constant(module: nn.Module, name: str) -> bool:
    """Whether a buffer follows from the arguments alone, so that every choice has its own: those that are not saved,
    and those of whole numbers, but for what normalizations count."""
    path, _, own = name.rpartition(".")
    owner = module.get_submodule(path)
    buffer = owner._buffers[own]
    if isinstance(owner, _NormBase) or buffer is None:
        return False
    return own in owner._non_persistent_buffers_set or not buffer.is_floating_point()


def _packed(module: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, each in module.named_modules():
        prefix = f"{path}." if path else ""
        given = dict(getattr(each, "packed", {}))
        if isinstance(each, nn.MultiheadAttention):
            given = {"in_proj_weight": 3, "in_proj_bias": 3}
        elif type(each) in _GATES:
            given = {n: _GATES[type(each)] for n, _ in each.named_parameters(recurse=False) if "_hr" not in n}
        found |= {prefix + name: parts for name, parts in given.items()}
    return found


def _cut(
    name: str,
    owner: nn.Module,
    other: nn.Module | None,
    own: str,
    small: torch.Size,
    large: torch.Size,
    packed: dict[str, int],
) -> Cut:
    if small == large:
        return _whole
    if len(small) != len(large) or any(s > n for s, n in zip(small, large, strict=True)):
        raise UserError(f"{name} is {_shape(small)} for one choice and {_shape(large)} for the largest")
    is_kernel = isinstance(owner, _ConvNd) and own == "weight"
    starts = [(n - s) // 2 if is_kernel and d > 1 else 0 for d, (s, n) in enumerate(zip(small, large, strict=True))]
    index = tuple(slice(start, start + size) for start, size in zip(starts, small, strict=True))
    if parts := packed.get(name):
        first = slice(0, small[0] // parts)
        return lambda tensor: tensor.reshape(parts, -1, *tensor.shape[1:])[(slice(None), first, *index[1:])].flatten(
            0, 1
        )
    if (
        isinstance(owner, _ConvNd)
        and is_kernel
        and not owner.transposed
        and owner.groups > 1
        and getattr(other, "groups", 0) == 1
    ):
        rows, columns = small[0] // owner.groups, small[1]
        return lambda tensor: _diagonal(tensor, small[0], rows, columns)[(slice(None), slice(None), *index[2:])]
    return lambda tensor: tensor[index]


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _diagonal(weight: Tensor, outputs: int, rows: int, columns: int) -> Tensor:
    """Of an ungrouped convolution's weight (O, I, …) the inputs that each output sees when they are grouped."""
    numbers = torch.arange(outputs, device=weight.device)
    seen = (numbers // rows * columns)[:, None] + torch.arange(columns, device=weight.device)
    return weight[numbers[:, None], seen]


def _shape(size: torch.Size) -> str:
    return "×".join(map(str, size)) or "a number"
