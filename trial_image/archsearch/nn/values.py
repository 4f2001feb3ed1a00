"""ValueChoice, arithmetic on it, and modules whose arguments are chosen."""

from __future__ import annotations

import copy
import inspect
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NoReturn

from torch import nn

from archsearch.errors import UserError
from archsearch.nn.fixing import Fixing, current
from archsearch.nn.mutables import ALWAYS, Always, Mutable, warn_standalone
from archsearch.space import Choice, Ordinal, Scalar, Term

MAX_OUTCOMES = 10_000


class NoValueYet(UserError, TypeError):
    """A chosen value was used where a number is needed while the model is built."""


class Value:
    """What can stand for a number: a ValueChoice, or arithmetic on one or several."""

    def leaves(self) -> tuple[ValueChoice, ...]:
        """The choices that the value depends on, each once."""
        raise NotImplementedError

    def evaluate(self, get: Callable[[ValueChoice], Any]) -> Any:
        """The value, where `get` gives each choice's."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Expression:
        return Expression(operator.add, self, other)

    def __radd__(self, other: Any) -> Expression:
        return Expression(operator.add, other, self)

    def __sub__(self, other: Any) -> Expression:
        return Expression(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Expression:
        return Expression(operator.sub, other, self)

    def __mul__(self, other: Any) -> Expression:
        return Expression(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Expression:
        return Expression(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Expression:
        return Expression(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return Expression(operator.truediv, other, self)

    def __floordiv__(self, other: Any) -> Expression:
        return Expression(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Expression:
        return Expression(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Expression:
        return Expression(operator.mod, self, other)

    def __rmod__(self, other: Any) -> Expression:
        return Expression(operator.mod, other, self)

    def __pow__(self, other: Any) -> Expression:
        return Expression(operator.pow, self, other)

    def __neg__(self) -> Expression:
        return Expression(operator.neg, self)

    def __round__(self, digits: int | None = None) -> Expression:
        return Expression(round, self, digits)

    def map(self, function: Callable[[Any], Any]) -> Expression:
        """Any function of the value."""
        return Expression(function, self)

    def _no_value(self, *_: Any) -> NoReturn:
        raise NoValueYet(
            f"{self!r} has no value while the model is built: pass it to a module class of archsearch.nn "
            "(archsearch.nn.Conv2d and so on, or archsearch.nn.wrap(YourModule)), or call it in forward"
        )

    __bool__ = __index__ = __int__ = __float__ = __lt__ = __le__ = __gt__ = __ge__ = _no_value


class ValueChoice(Value, Mutable):
    """One of several values: numbers, strings or booleans. Decision: the value.

    Give it to a module class of `archsearch.nn`, compute with it (``width * 2``), or call it in `forward`.
    Using one object in several places makes one decision of them.

    Args:
        values: in order; different from each other.
        label: equal labels share one decision. Default: the path of the first place that uses it.
        key: NNI's word for label.

    Raises:
        UserError: no values, or values that are no scalars or not different.
    """

    def __init__(self, values: Iterable[Scalar], label: str | None = None, *, key: str | None = None) -> None:
        Mutable.__init__(self, label if label is not None else key)
        self.options: tuple[Scalar, ...] = tuple(values)
        self.choice(self.label or "value")  # refuses wrong values here, where the user wrote them

    def leaves(self) -> tuple[ValueChoice, ...]:
        return (self,)

    def evaluate(self, get: Callable[[ValueChoice], Any]) -> Any:
        return get(self)

    conductible = True

    def forward(self) -> Scalar:
        if self.conductor is not None:
            found: Scalar = self.conductor.value(self)
            return found
        warn_standalone()
        return self.options[0]

    def choice(self, name: str) -> Choice:
        return Ordinal(name, self.options)

    def resolve(self, fixing: Fixing) -> nn.Module:
        return ChosenValue(fixing.decision(self)).train(self.training)

    def __repr__(self) -> str:
        return f"ValueChoice({list(self.options)}{f', label={self.label!r}' if self.label else ''})"


class Expression(Value):
    """Arithmetic on choices; its value is called for like a ValueChoice's."""

    def __init__(self, function: Callable[..., Any], *operands: Any) -> None:
        self.function = function
        self.operands = operands

    def leaves(self) -> tuple[ValueChoice, ...]:
        found = [leaf for operand in self.operands if isinstance(operand, Value) for leaf in operand.leaves()]
        return tuple({id(leaf): leaf for leaf in found}.values())

    def evaluate(self, get: Callable[[ValueChoice], Any]) -> Any:
        return self.function(*(o.evaluate(get) if isinstance(o, Value) else o for o in self.operands))

    def __call__(self) -> Any:
        conductor = next((leaf.conductor for leaf in self.leaves() if leaf.conductor is not None), None)
        if conductor is not None:
            return conductor.value(self)
        warn_standalone()
        return first(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        fixing = current()
        if fixing is not None:
            return ChosenValue(resolved(self, fixing))
        return Expression(self.function, *copy.deepcopy(self.operands, memo))

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", "function")
        return f"{name}({', '.join(map(repr, self.operands))})"

    # Equality of expressions is asked for by module classes that check their arguments.
    __eq__ = __ne__ = Value._no_value
    __hash__ = object.__hash__


class ChosenValue(nn.Module):
    """What `fix` leaves of a ValueChoice that the model calls: the value. No parameters."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Any:
        return self.value

    def extra_repr(self) -> str:
        return repr(self.value)


def maximum(*operands: Any) -> Expression:
    """The largest of numbers and chosen values."""
    return Expression(max, *operands)


def minimum(*operands: Any) -> Expression:
    """The smallest of numbers and chosen values."""
    return Expression(min, *operands)


def first(value: Any) -> Any:
    """The value in standalone mode: of the first candidates."""
    return value.evaluate(lambda leaf: leaf.options[0]) if isinstance(value, Value) else value


def resolved(value: Any, fixing: Fixing) -> Any:
    """The value under the decisions."""
    return value.evaluate(fixing.decision) if isinstance(value, Value) else value


def outcomes(value: Any) -> list[Any]:
    """Every value that a number, choice or expression can take."""
    if not isinstance(value, Value):
        return [value]
    return [outcome for _, outcome in _assignments(value)]


def _assignments(value: Value) -> Iterable[tuple[tuple[Scalar, ...], Any]]:
    leaves = value.leaves()
    total = 1
    for leaf in leaves:
        total *= len(leaf.options)
    if total > MAX_OUTCOMES:
        raise UserError(f"{value!r} can take {total} values; a depth is computed from at most {MAX_OUTCOMES}")
    for values in itertools.product(*(leaf.options for leaf in leaves)):
        given = {id(leaf): v for leaf, v in zip(leaves, values, strict=True)}
        yield values, value.evaluate(lambda leaf, given=given: given[id(leaf)])  # type: ignore[misc]


def alternatives(value: Any, test: Callable[[Any], bool], fixing: Fixing) -> Always:
    """When a value passes the test, as alternatives of terms on the choices that it depends on."""
    if not isinstance(value, Value):
        return ALWAYS if test(value) else ()
    passed: dict[tuple[Scalar, ...], list[Scalar]] = {}
    everything = True
    for values, outcome in _assignments(value):
        if test(outcome):
            passed.setdefault(values[:-1], []).append(values[-1])
        else:
            everything = False
    if everything:
        return ALWAYS
    names = [fixing.name(leaf) for leaf in value.leaves()]
    return tuple(
        (*(Term(name, (v,)) for name, v in zip(names, head, strict=False)), Term(names[-1], tuple(tail)))
        for head, tail in passed.items()
    )


class ValueModule(Mutable):
    """A module whose arguments hold choices; in standalone mode it is made with the first candidates.

    `fix` makes the plain module with the chosen arguments. Weights are kept where they have the same shapes; of a
    widened module they are the part of its largest ones (see `archsearch.nn.sharing`).

    Attributes:
        leaves: the choices that its arguments depend on, each once.
        widest: the values of `leaves` for which `inner` has the largest parameters; None where it was not widened.
    """

    def __init__(self, factory: Callable[..., nn.Module], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(None)
        self._factory = factory
        self._arguments = (tuple(args), dict(kwargs))
        self.leaves: tuple[ValueChoice, ...] = tuple(
            {id(leaf): leaf for value in _values([args, kwargs]) for leaf in value.leaves()}.values()
        )
        self.widest: tuple[Scalar, ...] | None = None
        self.inner = self._make(first)

    def _make(self, value: Callable[[Any], Any]) -> nn.Module:
        args, kwargs = self._arguments
        return self._factory(*_mapped(args, value), **_mapped(kwargs, value))

    conductible = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.conductor is not None:
            return self.conductor.module(self, args, kwargs)
        warn_standalone()
        if self.widest is not None:
            from archsearch.nn.sharing import Variant

            return Variant(self, first)(args, kwargs)
        return self.inner(*args, **kwargs)

    def widen(self, values: tuple[Scalar, ...]) -> None:
        """Give `inner` the parameters that these values of `leaves` need, of the type and where they were before."""
        if values != tuple(leaf.options[0] for leaf in self.leaves):
            given = dict(zip(map(id, self.leaves), values, strict=True))
            made = self._make(lambda value: value.evaluate(lambda leaf: given[id(leaf)]))
            self.inner = _like(made, self.inner).train(self.inner.training)
        self.widest = values

    def signature(self, value: Callable[[Any], Any]) -> Any:
        """The same for modules that are made in the same way; hashable where the arguments are."""
        args, kwargs = self._arguments
        return (self._factory, _mapped(args, value), tuple(sorted(_mapped(kwargs, value).items())))

    def make(self, value: Callable[[Any], Any]) -> nn.Module:
        """The plain module, with fresh weights, whose chosen arguments `value` gives."""
        return self._make(value)

    def choice(self, name: str) -> None:
        return None

    def values(self) -> Iterable[tuple[str, Any]]:
        args, kwargs = self._arguments
        names = [p.name for p in inspect.signature(self._factory).parameters.values() if p.kind < p.VAR_POSITIONAL]
        named = {(names[i] if i < len(names) else str(i)): arg for i, arg in enumerate(args)} | kwargs
        return [(name, value) for name, argument in named.items() for value in _values(argument)]

    def branches(self, fixing: Fixing) -> Iterable[tuple[str, nn.Module, Always]]:
        return [("", self.inner, ALWAYS)]

    def resolve(self, fixing: Fixing) -> nn.Module:
        from archsearch.nn.describe import Collector

        if self.widest is None and all(resolved(value, fixing) == first(value) for _, value in self.values()):
            return self.inner
        made = _like(self._make(lambda value: resolved(value, fixing)), self.inner)
        if self.widest is not None:
            from archsearch.nn.sharing import give

            give(made, self.inner)
            return made.train(self.training)
        Collector(fixing).visit(made, fixing.paths[id(self)])
        state = self.inner.state_dict()
        if {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in made.state_dict().items()}:
            made.load_state_dict(state)
        return made.train(self.training)


def _like(made: nn.Module, other: nn.Module) -> nn.Module:
    """A module on the device and of the type of another's tensors."""
    tensors = [*other.parameters(), *other.buffers()]
    if tensors:
        made = made.to(tensors[0].device)
    for parameter in other.parameters():
        return made.to(parameter.dtype)
    return made


def _values(argument: Any) -> list[Value]:
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, dict):
        argument = list(argument.values())
    return [v for item in argument for v in _values(item)] if isinstance(argument, list | tuple) else []


def _mapped(argument: Any, value: Callable[[Any], Any]) -> Any:
    if isinstance(argument, Value):
        return value(argument)
    if isinstance(argument, dict):
        return {key: _mapped(item, value) for key, item in argument.items()}
    if type(argument) in (list, tuple):
        return type(argument)(_mapped(item, value) for item in argument)
    return argument


@cache
def wrap(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The same module class, whose arguments may hold choices. Without any it makes the module itself.

    Args:
        factory: a class of modules, or a function that makes one.
    """

    def make(*args: Any, **kwargs: Any) -> nn.Module:
        return ValueModule(factory, args, kwargs) if _values([args, kwargs]) else factory(*args, **kwargs)

    make.__name__ = make.__qualname__ = getattr(factory, "__name__", "make")
    make.__doc__ = factory.__doc__
    return make
