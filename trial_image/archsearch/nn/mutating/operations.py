"""Replace, Insert, Remove and Repeated: where in a network, and what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from archsearch.errors import UserError
from archsearch.nn.mutables import Repeat
from archsearch.nn.mutating import calls
from archsearch.nn.mutating.candidates import MutationError, Site, class_of
from archsearch.nn.mutating.plain import ChosenChain, Skip
from archsearch.nn.mutating.tree import Place, Tree
from archsearch.nn.values import Expression, ValueChoice
from archsearch.spec.mutation import KEEP, Mutation

Kinds = str | type[nn.Module] | Sequence[str | type[nn.Module]]
Function = str | Callable[..., Any]


class Operation(ABC):
    """One kind of change, in every place that fits. What is not given fits all.

    Args:
        match: module paths, * for any text, dots too: "layer*.conv2" is every conv2 below a layer. Of modules inside
            each other only the outermost is taken. With `call` the modules whose forward is rewritten, inner ones too.
        type: classes of the modules, or their names (torch.nn.ReLU, module:Class); subclasses count.
        call: calls in a forward, by function: itself, its short name (relu, add), or torch.nn.functional.relu.
        label: name of the choice, so that all places share one decision; "{path}" and "{parent}" stand for the place's
            own. Default: each place decides for itself.
        values: chosen values that arguments refer to as $name; a list becomes a ValueChoice of each place.
    """

    def __init__(
        self,
        match: str | None = None,
        *,
        type: Kinds | None = None,
        call: Function | None = None,
        label: str | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        if match is None and type is None and call is None:
            raise MutationError(f"{self.word}: give match, type or call")
        self.match = match
        self.type = type
        self.call = call
        self.label = label or ""
        self.values = dict(values or {})

    @property
    def word(self) -> str:
        return self.__class__.__name__.lower()

    @contextmanager
    def named(self, index: int) -> Iterator[None]:
        """Name this operation in errors."""
        try:
            yield
        except UserError as error:
            raise MutationError(f"mutate[{index}] ({self.word} {self._where()}): {error}") from error

    def _where(self) -> str:
        parts = [repr(self.match)] if self.match is not None else []
        if self.type is not None:
            parts.append(f"type {' or '.join(_kind_name(kind) for kind in _listed(self.type))}")
        if self.call is not None:
            parts.append(f"call {self.call if isinstance(self.call, str) else self.call.__name__}")
        return ", ".join(parts)

    def apply(self, tree: Tree) -> None:
        """Change the network.

        Raises:
            MutationError: nothing fits, or a place cannot be changed.
        """
        kinds = None if self.type is None else tuple(_class(kind) for kind in _listed(self.type))
        found = tree.matching(self.match, lambda place: kinds is None or issubclass(place.kind, kinds))
        if self.call is not None:
            found = [place for place in found if not _of_torch(place.module)]
        if not found:
            there = "modules of the network's own with a forward" if self.call is not None else "modules"
            raise MutationError(f"fits no {there}; it has {tree.near(self.match or '')}")
        if self.call is None:
            for place in _outermost(found):
                self._refuse(tree, place)
                self.at_module(tree, place)
        else:
            self._at_calls(tree, found)

    def _refuse(self, tree: Tree, place: Place) -> None:
        for parent, _ in place.slots:
            if isinstance(parent, nn.MultiheadAttention):
                raise MutationError(
                    f"{place.path}: torch's MultiheadAttention reads the parameters of its parts and never calls them; "
                    f"replace {place.path.rpartition('.')[0]} as a whole"
                )
        if isinstance(place.module, nn.ModuleList | nn.ModuleDict):
            raise MutationError(
                f"{place.path}: a {type(place.module).__name__} is never called; match what is in it ({place.path}.*)"
            )

    def _taken(self, tree: Tree, place: Place) -> None:
        if place.path in tree.replaced:
            raise MutationError(
                f"{place.path} is replaced by {tree.replaced[place.path]} already; give all candidates in one "
                "operation, or narrow match"
            )
        tree.replaced[place.path] = f"{self.word} {self._where()}"

    def _site(self, path: str, module: nn.Module | None) -> Site:
        site = Site(path, module)
        site.values = site.chosen_values(self.values)
        return site

    def _at_calls(self, tree: Tree, owners: Sequence[Place]) -> None:
        assert self.call is not None  # noqa: S101 - apply asks
        function = _function(self.call)
        changed, seen = False, dict[str, None]()
        for place in reversed(owners):  # children first: a parent that is traced later keeps what was made of them
            graph_module, nodes = calls.matching_calls(place.module, place.path, function)
            seen |= dict.fromkeys(calls.names_of(graph_module.graph))
            for node in nodes:
                path = f"{place.path}.{node.name}" if place.path else node.name
                made = self.at_call(graph_module, node, path)
                tree.adopt(made)
            if nodes:
                changed = True
                graph_module.graph.lint()
                graph_module.recompile()
                for parent, name in place.slots:
                    parent._modules[name] = graph_module
        if not changed:
            paths = ", ".join(repr(place.path) for place in owners[:5])
            raise MutationError(
                f"no forward of {paths}{' and others' if len(owners) > 5 else ''} calls it: they call "
                f"{', '.join(seen) or 'modules only'}; name one of these (add also stands for +=), or match the module "
                "whose forward has the call"
            )

    @abstractmethod
    def at_module(self, tree: Tree, place: Place) -> None:
        """Change one module."""

    @abstractmethod
    def at_call(self, graph_module: fx.GraphModule, node: fx.Node, path: str) -> nn.Module:
        """Change one call; returns what was put in."""


class Replace(Operation):
    """Candidates in the place of a module or a call.

    Args:
        candidates: by name, or a list. Each is "keep", "identity", a module (copied for each place), a class, its
            name, ``{"type": …, "args": {…}}``, ``{"change": {…}}`` (the class of what stands there with other
            arguments), a list of these in a row, or a function of the module that stands there (of the call, as a
            module).
        with_: one candidate without a choice, such as a module with chosen arguments.
    """

    def __init__(
        self,
        match: str | None = None,
        candidates: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        with_: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(match, **options)
        if (candidates is None) == (with_ is None):
            raise MutationError("replace: give exactly one of candidates and with_")
        self.with_ = with_
        self.candidates = _named(candidates) if candidates is not None else {}

    def _made(self, site: Site) -> nn.Module:
        if self.with_ is not None:
            return site.make(self.with_, "with")
        return site.choice(self.candidates, self.label)

    def at_module(self, tree: Tree, place: Place) -> None:
        self._taken(tree, place)
        made = self._made(self._site(place.path, place.module))
        tree.put(place, made, [(place.module, "")])

    def at_call(self, graph_module: fx.GraphModule, node: fx.Node, path: str) -> nn.Module:
        call, inputs = calls.as_module(node)
        made = self._made(self._site(path, call))
        calls.replace_call(graph_module, node, inputs, made)
        return made


class Remove(Replace):
    """A place that may be skipped: its (first) input is passed on.

    Args:
        always: removed without a choice.
    """

    def __init__(self, match: str | None = None, *, always: bool = False, **options: Any) -> None:
        candidates = None if always else {KEEP: KEEP, "remove": "remove"}
        super().__init__(match, candidates, with_="remove" if always else None, **options)


class Insert(Operation):
    """Candidates before or after a module or a call. They get one tensor and give one.

    Args:
        candidates: as for Replace, without "keep"; "identity" inserts nothing.
        before: before, not after.
    """

    def __init__(
        self,
        match: str | None = None,
        candidates: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        before: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(match, **options)
        self.candidates = _named(candidates if candidates is not None else [])
        self.before = before

    def _site(self, path: str, module: nn.Module | None) -> Site:
        """Arguments may refer to the module beside which candidates stand; there is nothing to keep."""
        site = super()._site(path, module)
        return _Beside(site.path, site.module, site.values)

    def at_module(self, tree: Tree, place: Place) -> None:
        inserted = self._site(place.path, place.module).choice(self.candidates, self.label)
        tree.put(place, ChosenChain(place.module, inserted, before=self.before), [(place.module, "")])

    def at_call(self, graph_module: fx.GraphModule, node: fx.Node, path: str) -> nn.Module:
        if self.before and not node.all_input_nodes:
            raise MutationError(f"{path} is given nothing that a module could be put before; insert after it")
        made = self._site(path, None).choice(self.candidates, self.label)
        calls.insert_call(graph_module, node, made, before=self.before)
        return made


class _Beside(Site):
    def _original(self, what: str) -> nn.Module:
        raise MutationError(f"{self.path}: {what}: there is nothing to keep or change where a module is inserted")

    def _skip(self, what: str) -> nn.Module:
        return Skip()


class Repeated(Operation):
    """A chosen number of modules in a row: of an `nn.Sequential` its first ones, of any other module copies of it.

    Args:
        depth: (least, greatest), a ValueChoice of whole numbers, or an expression of some.
    """

    def __init__(
        self, match: str | None = None, depth: tuple[int, int] | ValueChoice | Expression | None = None, **options: Any
    ) -> None:
        super().__init__(match, **options)
        if depth is None or self.call is not None:
            raise MutationError("repeated: give a depth, and no call: only modules are repeated")
        self.depth = depth

    def at_module(self, tree: Tree, place: Place) -> None:
        self._taken(tree, place)
        depth: Any = self.depth
        if isinstance(depth, tuple | list):
            low, high = depth
            depth = ValueChoice(range(low, high + 1), label=Site(place.path, None).labelled(self.label))
        module = place.module
        if isinstance(module, nn.Sequential):
            try:
                made = Repeat(list(module), depth)
            except UserError as error:
                raise MutationError(f"{place.path} has {len(module)} modules: {error}") from None
            tree.put(place, made, [(child, str(i)) for i, child in enumerate(made.children())])
        else:
            tree.put(place, Repeat(module, depth))

    def at_call(self, graph_module: fx.GraphModule, node: fx.Node, path: str) -> nn.Module:
        raise MutationError(f"{path}: only modules are repeated")


def from_manifest(mutation: Mutation) -> Operation:
    """The operation that an entry of modelSpace.mutate stands for."""
    options: dict[str, Any] = {
        "type": mutation.type or None,
        "call": mutation.call,
        "label": mutation.label,
        "values": mutation.values,
    }
    if mutation.replace is not None:
        return Replace(mutation.match, mutation.replace.candidates, with_=mutation.replace.with_, **options)
    if mutation.insert is not None:
        return Insert(mutation.match, mutation.insert.candidates, before=mutation.insert.before, **options)
    if mutation.remove is not None:
        return Remove(mutation.match, always=mutation.remove.always, **options)
    assert mutation.repeat is not None  # noqa: S101 - one of the four, by the model's own check
    return Repeated(mutation.match, (mutation.repeat.depth[0], mutation.repeat.depth[1]), **options)


def _outermost(places: Sequence[Place]) -> list[Place]:
    paths = {place.path for place in places}

    def inside(path: str) -> bool:
        above = [path[:index] for index, letter in enumerate(path) if letter == "."]
        return any(each in paths for each in ([*above, ""] if path else []))

    return [place for place in places if not inside(place.path)]


def _named(candidates: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    named = dict(candidates) if isinstance(candidates, Mapping) else {str(i): each for i, each in enumerate(candidates)}
    if not named:
        raise MutationError("give at least one candidate")
    return named


def _listed(kinds: Kinds) -> list[str | type[nn.Module]]:
    return [kinds] if isinstance(kinds, str | type) else list(kinds)


def _class(kind: str | type[nn.Module]) -> type[nn.Module]:
    found: type[nn.Module] = class_of(kind) if isinstance(kind, str) else kind
    return found


def _kind_name(kind: str | type[nn.Module]) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _function(function: Function) -> Function:
    """The function itself where its name has dots."""
    if not isinstance(function, str) or "." not in function:
        return function
    found: Any = {"torch": torch}.get(function.partition(".")[0])
    for part in function.split(".")[1:]:
        found = getattr(found, part, None)
    if found is None:
        raise MutationError(
            f"there is no function {function!r}; write torch.nn.functional.NAME, torch.NAME or NAME alone"
        )
    resolved: Function = found
    return resolved


def _of_torch(module: nn.Module) -> bool:
    """Torch's own modules call kernels, and containers have no forward: neither is rewritten."""
    return type(module).__module__.startswith("torch.nn.") and not isinstance(module, fx.GraphModule)
