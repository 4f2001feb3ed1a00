"""A device that is none: tensors that say they are on a GPU, and are refused where a GPU's would be.

Within `pretending()` the device ``cuda`` is there. Tensors moved to it, or made on it, compute on the CPU with the same
results; mixing them with the CPU's, drawing with a CPU generator and reading them without copying raise what CUDA
raises. So it is tested without a GPU that everything is put on the device it belongs on, and nothing about kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing

_aten = torch.ops.aten
ACROSS = {_aten._to_copy.default, _aten.copy_.default, _aten._foreach_copy_.default}
"""Read one device's tensors and write another's."""
INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}
"""Take the CPU's indices of a GPU's tensor."""

ZEROS_AMONG = {_aten.stack.default, _aten.cat.default}
"""Where backward passes fill gradients that are not there with zeros, on the device that the kernels see: the CPU."""


class Far(Tensor):
    """A tensor of the device.

    Attributes:
        near: its data, on the CPU.
    """

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=near.device,
            requires_grad=near.requires_grad,
        )
        made.near = near.detach()
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            made: Tensor = Far(self.near.clone()).requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
        found: Tensor = memo[id(self)]
        return found

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["near"], None  # has modules take such tensors in place of others

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> Far:
        return Far(parts["near"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _check(func, args, kwargs)
        near_args, near_kwargs = pytree.tree_map_only(Far, lambda far: far.near, (args, kwargs))
        found = pytree.tree_map_only(Tensor, Far, func(*near_args, **near_kwargs))
        return return_and_correct_aliasing(func, args, kwargs, found)


def _check(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    strangers = [each for each in tensors if not isinstance(each, Far)]
    if torch.Tag.pointwise in func.tags or func.name().startswith("aten::_fused_"):  # optimizers group by real device
        strangers = [each for each in strangers if each.dim()]
    if func in INDEXED:
        strangers = [each for each in strangers if not isinstance(args[0], Far)]
    if func in ZEROS_AMONG and torch._C._current_graph_task_id() >= 0:  # type: ignore[attr-defined]
        strangers = []
    if strangers and func not in ACROSS:
        shapes = [tuple(each.shape) for each in strangers]
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some of the CPU: {shapes}")
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")


class _There(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, near: Tensor) -> Tensor:
        return Far(near)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].near


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, far: Far) -> Tensor:
        return far.near.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return Far(gradients[0])


def _moved(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Far) == (device.type == "cuda"):
        return value
    return (_There if device.type == "cuda" else _Back).apply(value)


class _Device(TorchFunctionMode):
    """What Python code asks of tensors and of functions that make some."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        own = args[0] if args else None
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device("cuda", 0) if isinstance(own, Far) else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(own, Far)
        if func is Tensor.tolist and isinstance(own, Far):
            return own.near.tolist()
        if func is Tensor.numpy and isinstance(own, Far):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func in (Tensor.cpu, Tensor.cuda):
            return _moved(own, torch.device("cpu" if func is Tensor.cpu else "cuda"))
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = torch.device(kwargs.pop("device"))
        kwargs.pop("pin_memory", None)
        if isinstance(kwargs.get("generator"), torch.Generator) and device.type == "cuda":
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
        return pytree.tree_map(lambda value: _moved(value, device), func(*args, **kwargs))

    def _to(self, own: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copied = kwargs.pop("copy", False)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        found: Tensor = own if device is None else _moved(own, device)
        if dtype is not None:
            found = Tensor.to(found, dtype)
        if layout is not None:
            found = found.contiguous(memory_format=layout)
        return found.clone() if copied and found is own else found


@contextmanager
def pretending() -> Iterator[Callable[[Tensor], bool]]:
    """Have a device named ``cuda``; gives what tells whether a tensor is there."""
    asked: dict[str, Callable[..., Any]] = {
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": None,
        "synchronize": lambda device=None: None,
        "current_stream": mock.MagicMock(),
        "get_device_name": lambda device=None: "pretended",
    }
    autocast, scaler = torch.autocast, torch.amp.GradScaler
    mixed: dict[str, Callable[..., Any]] = {
        "torch.autocast": lambda device_type, **options: autocast("cpu", **options),
        "torch.amp.GradScaler": lambda device, **options: scaler("cpu", **options),
        "torch.inference_mode": torch.no_grad,  # in inference mode wrapped tensors have no views
    }
    overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # what moves is of another class
    try:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(torch.cuda, **asked))
            for name, own in mixed.items():
                stack.enter_context(mock.patch(name, own))
            stack.enter_context(_Device())
            yield lambda tensor: isinstance(tensor, Far)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwriting)
