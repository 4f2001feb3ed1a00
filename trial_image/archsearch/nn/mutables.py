"""LayerChoice, InputChoice and Repeat, and what all choices have in common."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn.fixing import Fixing, current
from archsearch.space import Categorical, Choice, Subset, Term

if TYPE_CHECKING:
    from archsearch.nn.cell import Cell
    from archsearch.nn.values import Expression, ValueChoice, ValueModule

Reduction = Literal["sum", "mean", "concat", "none"]
Always = tuple[tuple[Term, ...], ...]
ALWAYS: Always = ((),)


class StandaloneWarning(UserWarning):
    """A model with choices was called without an architecture; the first candidates are taken."""


class Conductor(Protocol):
    """Who says, in a supernet, what each choice does in a forward pass. See `archsearch.supernet.network`."""

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of a layer choice."""

    def inputs(self, choice: InputChoice, makers: Sequence[Callable[[], Any]]) -> Any:
        """The reduced inputs of an input choice; `makers`, in the order of its candidates, compute them."""

    def value(self, value: Any) -> Any:
        """The value of a number, a value choice or an expression of some."""

    def module(self, module: ValueModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of a module whose arguments are chosen."""

    def merged(self, cell: Cell) -> tuple[int, ...]:
        """The numbers of the nodes that a cell gives."""


class Mutable(nn.Module):
    """A module that stands for a choice. `describe` asks for its choice and branches, `fix` for what replaces it.

    Attributes:
        conductor: decides instead of standalone mode, where the model is a supernet. Copies have none.
        conductible: whether the class asks its conductor; the others' parameters cannot be shared by architectures.
    """

    conductor: Conductor | None = None
    conductible: ClassVar[bool] = False

    def __init__(self, label: str | None) -> None:
        super().__init__()
        if label is not None and (not isinstance(label, str) or not label):
            raise UserError(f"{type(self).__name__}: a label is a non-empty string, not {label!r}")
        self.label = label

    @abstractmethod
    def choice(self, name: str) -> Choice | None:
        """The choice, under the name that `describe` found for it; None where only parts of it are choices."""

    def values(self) -> Iterable[tuple[str, Any]]:
        """(name below this module's path, value or expression) of the chosen values that this module depends on."""
        return ()

    def branches(self, fixing: Fixing) -> Iterable[tuple[str, nn.Module, Always]]:
        """(name, child, alternatives of terms under which the child exists)."""
        return ((name, child, ALWAYS) for name, child in self.named_children())

    @abstractmethod
    def resolve(self, fixing: Fixing) -> nn.Module:
        """The plain module that stands for this one under the decisions of `fixing`; may hold modules of this one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        fixing = current()
        if fixing is not None:
            return copy.deepcopy(self.resolve(fixing), memo)
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        own = {name: value for name, value in self.__dict__.items() if name != "conductor"}
        twin.__dict__.update(copy.deepcopy(own, memo))
        return twin


_warned: set[str] = set()


def warn_standalone() -> None:
    """Warn once a process."""
    if not _warned:
        _warned.add("standalone")
        warnings.warn(
            "a model with choices was called without an architecture: the first candidate of each is taken "
            "(all inputs where their number is free); archsearch.fix(model, architecture) gives a plain network",
            StandaloneWarning,
            stacklevel=4,
        )


class LayerChoice(Mutable):
    """One of several modules. Decision: the candidate's name.

    Args:
        candidates: modules by name, or a list, whose names are "0", "1", …
        label: equal labels share one decision. Default: the module's path.
        key: NNI's word for label.

    Raises:
        UserError: no candidates, a candidate that is no module, a name that is empty or has a dot.
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module] | Sequence[nn.Module],
        label: str | None = None,
        *,
        key: str | None = None,
    ) -> None:
        super().__init__(label if label is not None else key)
        named = candidates if isinstance(candidates, Mapping) else {str(i): c for i, c in enumerate(candidates)}
        if not named:
            raise UserError(f"{self._what()} has no candidates; give at least one module")
        for name, module in named.items():
            if not isinstance(name, str) or not name or "." in name:
                raise UserError(
                    f"{self._what()}: the candidate name {name!r} is empty, has a dot or is no string; rename it"
                )
            if not isinstance(module, nn.Module):
                raise UserError(
                    f"{self._what()}: the candidate {name!r} is a {type(module).__name__}, not a torch.nn.Module"
                )
            self._modules[name] = module  # add_module refuses names such as "train"
        self.names = tuple(named)

    def _what(self) -> str:
        return f"LayerChoice{f' {self.label!r}' if self.label else ''}"

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self[name] for name in self.names)

    def __getitem__(self, name: str | int) -> nn.Module:
        module = self._modules[self.names[name] if isinstance(name, int) else name]
        assert module is not None  # noqa: S101 - __init__ put modules there only
        return module

    conductible = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.conductor is not None:
            return self.conductor.layer(self, args, kwargs)
        warn_standalone()
        return self[0](*args, **kwargs)

    def choice(self, name: str) -> Choice:
        return Categorical(name, self.names)

    def branches(self, fixing: Fixing) -> Iterable[tuple[str, nn.Module, Always]]:
        choice = fixing.name(self)
        return ((name, self[name], ((Term(choice, (name,)),),)) for name in self.names)

    def resolve(self, fixing: Fixing) -> nn.Module:
        return self[str(fixing.decision(self))]


class ChosenInputs(nn.Module):
    """What `fix` leaves of an InputChoice: it picks fixed inputs and reduces them. No parameters.

    Args:
        chosen: positions of the inputs; for inputs that come in a dict their names.
        inputs: how many inputs there are.
        reduction: sum, mean, concat (along dimension 1) or none (a list).
    """

    def __init__(self, chosen: Sequence[int | str], inputs: int, reduction: Reduction) -> None:
        super().__init__()
        self.chosen = tuple(chosen)
        self.inputs = inputs
        self.reduction = reduction

    def forward(self, inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> Any:
        return select(inputs, self.chosen, self.inputs, self.reduction)

    def extra_repr(self) -> str:
        return f"{list(self.chosen)} of {self.inputs}, {self.reduction}"


def select(
    inputs: Sequence[Tensor] | Mapping[str, Tensor], chosen: Sequence[int | str], count: int, reduction: Reduction
) -> Any:
    """Pick and reduce. With none chosen: zeros of the first one's shape (concat: no channels; none: an empty list)."""
    if len(inputs) != count:
        raise UserError(f"an InputChoice of {count} inputs was given {len(inputs)}")
    values = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    picked = [inputs[i] if isinstance(inputs, Mapping) else values[int(i)] for i in chosen]  # type: ignore[index]
    if reduction == "none":
        return picked
    if not picked:
        return values[0][:, :0] if reduction == "concat" else torch.zeros_like(values[0])
    if reduction == "concat":
        return torch.cat(picked, dim=1)
    total = picked[0]
    for value in picked[1:]:
        total = total + value
    return total / len(picked) if reduction == "mean" else total


def _same(value: Any) -> Any:
    return value


class InputChoice(Mutable):
    """Some of several inputs, reduced to one tensor. Decision: the sorted list of chosen inputs.

    Called with a list of tensors, in the order of the candidates, or with a dict by the names of `choose_from`.

    Args:
        n_candidates: how many inputs there are, numbered from 0; or
        choose_from: their names.
        n_chosen: how many are chosen; None: any number, none and all included.
        reduction: sum, mean, concat (along dimension 1), or none: a list of the chosen.
        label: equal labels share one decision. Default: the module's path.
        key: NNI's word for label.

    Raises:
        UserError: n_chosen outside 1 … n_candidates, no inputs, an unknown reduction.
    """

    def __init__(
        self,
        n_candidates: int | None = None,
        n_chosen: int | None = 1,
        reduction: Reduction = "sum",
        label: str | None = None,
        *,
        choose_from: Sequence[str] | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(label if label is not None else key)
        what = f"InputChoice{f' {self.label!r}' if self.label else ''}"
        if choose_from is not None and n_candidates not in (None, len(choose_from)):
            raise UserError(f"{what}: n_candidates is {n_candidates}, but choose_from has {len(choose_from)} names")
        if choose_from is None and (
            isinstance(n_candidates, bool) or not isinstance(n_candidates, int) or n_candidates < 1
        ):
            raise UserError(f"{what}: n_candidates is a whole number from 1 on, not {n_candidates!r}")
        if reduction not in get_args(Reduction):
            raise UserError(f"{what}: no reduction is named {reduction!r}; expected {', '.join(get_args(Reduction))}")
        self.candidates: tuple[int | str, ...] = tuple(choose_from or range(n_candidates or 0))
        self.n_chosen = n_chosen
        self.reduction: Reduction = reduction
        self.choice(self.label or "input")  # refuses a wrong n_chosen here, where the user wrote it

    conductible = True

    def forward(self, inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> Any:
        if len(inputs) != len(self.candidates):
            raise UserError(f"an InputChoice of {len(self.candidates)} inputs was given {len(inputs)}")
        if isinstance(inputs, Mapping):
            inputs = [inputs[name] for name in self.candidates]  # type: ignore[index]
        return self.lazy([partial(_same, value) for value in inputs])

    def lazy(self, makers: Sequence[Callable[[], Any]]) -> Any:
        """As a call, with functions that compute the inputs: those that are not chosen are not computed."""
        if self.conductor is not None:
            return self.conductor.inputs(self, makers)
        warn_standalone()
        return self.reduce([make() for make in makers[: self.n_chosen]], makers)

    def reduce(self, picked: Sequence[Tensor], makers: Sequence[Callable[[], Any]]) -> Any:
        """Reduce the chosen inputs; where none is chosen, the first one is computed for its shape."""
        if picked or self.reduction == "none":
            return select(list(picked), range(len(picked)), len(picked), self.reduction)
        return select([makers[0]()], (), 1, self.reduction)

    def _chosen(self, decision: Sequence[int | str]) -> ChosenInputs:
        return ChosenInputs(decision, len(self.candidates), self.reduction)

    def choice(self, name: str) -> Choice:
        return Subset(name, self.candidates, self.n_chosen)

    def resolve(self, fixing: Fixing) -> nn.Module:
        decision = fixing.decision(self)
        assert isinstance(decision, tuple)  # noqa: S101 - a subset's decisions are tuples
        return self._chosen(decision).train(self.training)


Blocks = nn.Module | Sequence[nn.Module] | Callable[[int], nn.Module]


class Repeat(Mutable):
    """A sequence of blocks of which the first `depth` are used. Decision: the depth.

    Choices inside a block are decided block by block, and exist only where it does; those with a label are shared.

    Args:
        blocks: a function of the block's number (0, 1, …); or a module, of which copies are made (equal weights at the
            start); or a list of modules, as many as the greatest depth.
        depth: a number, a range (least, greatest), a ValueChoice of whole numbers, or an expression of some.
        label: for a range: equal labels share one decision. Default: the module's path and ".depth".

    Raises:
        UserError: a depth that is none of these or negative; too few blocks.
    """

    def __init__(
        self, blocks: Blocks, depth: int | tuple[int, int] | ValueChoice | Expression, label: str | None = None
    ) -> None:
        from archsearch.nn.values import ValueChoice, outcomes

        super().__init__(None)
        if isinstance(depth, tuple | list):
            depth = ValueChoice(_range(depth), label)
        elif label is not None:
            raise UserError(f"Repeat {label!r}: a label is for a range of depths; give it to the ValueChoice instead")
        depths = outcomes(depth)
        if any(isinstance(d, bool) or not isinstance(d, int) or d < 0 for d in depths):
            raise UserError(f"Repeat: a depth is a whole number from 0 on, not {depths!r}")
        self._depth = (depth,)  # in a tuple, so that it is no submodule: its keys are the blocks' alone
        self._count = max(depths)
        for i, block in enumerate(_blocks(blocks, self._count)):
            self._modules[str(i)] = block

    @property
    def depth(self) -> Any:
        """What was given: a number, a ValueChoice or an expression."""
        return self._depth[0]

    conductible = True

    def forward(self, x: Any) -> Any:
        from archsearch.nn.values import first

        if self.conductor is not None:
            depth = self.conductor.value(self.depth)
        else:
            depth = first(self.depth)
            if depth is not self.depth:
                warn_standalone()
        for i in range(depth):
            x = self._block(i)(x)
        return x

    def _block(self, i: int) -> nn.Module:
        block = self._modules[str(i)]
        assert block is not None  # noqa: S101 - __init__ put modules there only
        return block

    def choice(self, name: str) -> None:
        return None

    def values(self) -> Iterable[tuple[str, Any]]:
        return [("depth", self.depth)]

    def branches(self, fixing: Fixing) -> Iterable[tuple[str, nn.Module, Always]]:
        from archsearch.nn.values import alternatives

        for i in range(self._count):
            deeper: Callable[[int], bool] = i.__lt__
            yield str(i), self._block(i), alternatives(self.depth, deeper, fixing)

    def resolve(self, fixing: Fixing) -> nn.Module:
        from archsearch.nn.values import resolved

        return nn.Sequential(*(self._block(i) for i in range(resolved(self.depth, fixing)))).train(self.training)


def _range(depth: Sequence[Any]) -> list[int]:
    whole = all(isinstance(d, int) and not isinstance(d, bool) for d in depth)
    if len(depth) != 2 or not whole or not 0 <= depth[0] <= depth[1]:
        raise UserError(f"Repeat: a range of depths is (least, greatest), not {tuple(depth)!r}")
    return list(range(depth[0], depth[1] + 1))


def _blocks(blocks: Blocks, count: int) -> list[nn.Module]:
    if isinstance(blocks, nn.Module):
        made = [blocks, *(copy.deepcopy(blocks) for _ in range(count - 1))][:count]
    elif isinstance(blocks, Sequence):
        if len(blocks) < count:
            raise UserError(f"Repeat: {len(blocks)} blocks are too few for a depth of {count}")
        made = list(blocks)[:count]
    else:
        made = [blocks(i) for i in range(count)]
    for i, block in enumerate(made):
        if not isinstance(block, nn.Module):
            raise UserError(f"Repeat: block {i} is a {type(block).__name__}, not a torch.nn.Module")
    return made
