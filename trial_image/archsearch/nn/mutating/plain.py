"""Plain modules that mutated networks are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any

from torch import Tensor, nn

from archsearch.nn.fixing import Fixing
from archsearch.nn.mutables import ALWAYS, Always, LayerChoice, Mutable


class Skip(nn.Module):
    """Passes on its first input, whatever else the module in whose place it stands is given."""

    def forward(self, first: Any, *_: Any, **__: Any) -> Any:
        return first


class Chain(nn.Module):
    """A module with another before or after it. The module may take any arguments; the other gets one tensor."""

    def __init__(self, module: nn.Module, inserted: nn.Module, *, before: bool) -> None:
        super().__init__()
        self.module = module
        self.inserted = inserted
        self.before = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.before:
            return self.module(self.inserted(args[0]), *args[1:], **kwargs)
        return self.inserted(self.module(*args, **kwargs))


class ChosenChain(Mutable):
    """A chain whose inserted module is a choice; `fix` leaves the module alone where nothing is inserted."""

    conductible = True

    def __init__(self, module: nn.Module, inserted: LayerChoice, *, before: bool) -> None:
        super().__init__(None)
        self.module = module
        self.inserted = inserted
        self.before = before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return Chain.forward(self, *args, **kwargs)  # type: ignore[arg-type]  # has the same attributes

    def choice(self, name: str) -> None:
        return None

    def branches(self, fixing: Fixing) -> Iterable[tuple[str, nn.Module, Always]]:
        parts = [("before" if self.before else "after", self.inserted, ALWAYS), ("", self.module, ALWAYS)]
        return parts if self.before else parts[::-1]

    def resolve(self, fixing: Fixing) -> nn.Module:
        if isinstance(self.inserted.resolve(fixing), Skip):
            return self.module
        return Chain(self.module, self.inserted, before=self.before).train(self.training)


class Hole:
    """An argument of a call that comes at run time."""

    def __init__(self, index: int) -> None:
        self.index = index


class Call(nn.Module):
    """A call of a function or of a tensor's method, with its constant arguments. No parameters.

    Args:
        function: what is called; or the name of the method.
        args, kwargs: the arguments, `Hole`s in place of those that `forward` is given.
    """

    def __init__(self, function: Callable[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.arguments = (args, kwargs)

    def forward(self, *inputs: Any) -> Any:
        args, kwargs = _filled(self.arguments, inputs)
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function if isinstance(self.function, str) else getattr(self.function, "__name__", "function")


def _filled(template: Any, inputs: tuple[Any, ...]) -> Any:
    if isinstance(template, Hole):
        return inputs[template.index]
    if isinstance(template, dict):
        return {key: _filled(value, inputs) for key, value in template.items()}
    if isinstance(template, slice):
        return slice(*(_filled(part, inputs) for part in (template.start, template.stop, template.step)))
    if isinstance(template, tuple | list):
        parts = [_filled(part, inputs) for part in template]
        return tuple(parts) if isinstance(template, tuple) else parts
    return template


class CalledEncoderLayer(nn.TransformerEncoderLayer):
    """torch's layer, which always calls its modules: the fused path of torch's own reads their parameters instead."""

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self._sa_block(x, src_mask, src_key_padding_mask, is_causal=is_causal)

        if self.norm_first:
            src = src + attend(self.norm1(src))
            return src + self._ff_block(self.norm2(src))
        src = self.norm1(src + attend(src))
        out: Tensor = self.norm2(src + self._ff_block(src))
        return out


class CalledEncoder(nn.TransformerEncoder):
    """torch's encoder, which only calls its layers: torch's own reads the parts of the first."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        for layer in self.layers:
            src = layer(
                src,
                src_mask=mask,
                src_key_padding_mask=src_key_padding_mask,
                is_causal=bool(is_causal and mask is not None),
            )
        return src if self.norm is None else self.norm(src)


_CALLED: dict[type[nn.Module], type[nn.Module]] = {
    nn.TransformerEncoderLayer: CalledEncoderLayer,
    nn.TransformerEncoder: CalledEncoder,
}


def call_children(model: nn.Module, added: Set[int]) -> None:
    """Let torch's transformer modules call what was put into them (`added`: identities)."""
    for module in list(model.modules()):
        called = _CALLED.get(type(module))
        if called is not None and any(id(child) in added for child in module.modules() if child is not module):
            module.__class__ = called
