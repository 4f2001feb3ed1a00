"""From a model to its search space: no data, no forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from archsearch.nn.fixing import Fixing
from archsearch.nn.mutables import ALWAYS, Always, Mutable
from archsearch.nn.values import Value, ValueChoice
from archsearch.space import Choice, Scalar, SearchSpace, SpaceError, Subset, Term


def describe(model: nn.Module) -> SearchSpace:
    """The search space of every choice in a model, in the order of its modules.

    A choice is named by its label, else by the path of its module. A choice inside a candidate exists only where that
    is chosen. The model may have the attributes `space_constraints` (a list of `archsearch.space.Constraint`),
    `space_predicates` (functions of an architecture, by name) and `space_canonicaliser` (the name of a registered one).

    Raises:
        SpaceError: equal labels with different candidates (both paths are named), or choices that depend on each other.
    """
    return collect(model)[0]


def collect(model: nn.Module) -> tuple[SearchSpace, Fixing]:
    """The space, and the names and paths of the model's choices."""
    fixing = Fixing()
    collector = Collector(fixing)
    collector.visit(model, "")
    choices = collector.choices()
    if not choices:
        return SearchSpace(()), fixing
    predicates = getattr(model, "space_predicates", {})
    space = SearchSpace(
        choices,
        constraints=getattr(model, "space_constraints", ()),
        predicates=dict(predicates) if isinstance(predicates, Mapping) else {p.__name__: p for p in predicates},
        canonicaliser=getattr(model, "space_canonicaliser", ""),
    )
    return space, fixing


@dataclass
class _Found:
    choice: Choice
    labelled: bool
    places: list[str] = field(default_factory=list)
    when: dict[tuple[Term, ...], None] = field(default_factory=dict)


class Collector:
    """Walks a tree of modules and gathers its choices."""

    def __init__(self, fixing: Fixing) -> None:
        self._fixing = fixing
        self._found: dict[str, _Found] = {}
        self._open: set[int] = set()

    def visit(self, module: nn.Module, path: str, when: Always = ALWAYS) -> None:
        """Gather the choices of a module at a path that exists under `when`."""
        if id(module) in self._open or not when:
            return
        self._open.add(id(module))
        self._fixing.paths.setdefault(id(module), path)
        if isinstance(module, Mutable):
            self._mutable(module, path, when)
        else:
            for name, child in module.named_children():
                self.visit(child, _join(path, name), when)
            for name, value in vars(module).items():
                if isinstance(value, Value):
                    self._value(value, _join(path, name), when)
        self._open.discard(id(module))

    def _mutable(self, module: Mutable, path: str, when: Always) -> None:
        name = self._fixing.names.setdefault(id(module), module.label or path or "model")
        choice = module.choice(name)
        if choice is not None:
            self._add(choice, path or "model", when, module.label is not None)
        for below, value in module.values():
            self._value(value, _join(path, below), when)
        for below, child, exists in module.branches(self._fixing):
            self.visit(child, _join(path, below), tuple((*a, *b) for a in when for b in exists))

    def _value(self, value: object, path: str, when: Always) -> None:
        if isinstance(value, Value):
            for leaf in value.leaves():
                self._leaf(leaf, path, when)

    def _leaf(self, leaf: ValueChoice, path: str, when: Always) -> None:
        free = path if path not in self._found else self._free(path, leaf)
        name = self._fixing.names.setdefault(id(leaf), leaf.label or free)
        self._fixing.paths.setdefault(id(leaf), path)
        self._add(leaf.choice(name), path, when, leaf.label is not None)

    def _free(self, path: str, leaf: ValueChoice) -> str:
        """A second unlabelled choice in one argument, for example kernel_size=(a, b), gets a number."""
        if leaf.label or id(leaf) in self._fixing.names:
            return path
        return next(name for i in range(2, len(self._found) + 3) if (name := f"{path}.{i}") not in self._found)

    def _add(self, choice: Choice, path: str, when: Always, labelled: bool) -> None:
        found = self._found.setdefault(choice.name, _Found(choice, labelled))
        if found.labelled != labelled:
            raise SpaceError(
                f"the label {choice.name!r} is also the path of a choice without a label "
                f"({found.places[0]} and {path}); use another label"
            )
        if not found.choice.same_as(choice):
            raise SpaceError(
                f"two choices share the label {choice.name!r} but differ: {found.places[0]} offers "
                f"{found.choice.expected()}, {path} offers {choice.expected()}; "
                "give them different labels or the same candidates"
            )
        if path not in found.places:
            found.places.append(path)
        for terms in when:
            found.when[tuple(dict.fromkeys(terms))] = None

    def choices(self) -> list[Choice]:
        """The choices with their conditions, each after those that it depends on, else in the order of the model."""
        done = {
            name: replace(found.choice, when=self._when(found), members=_members(found))
            for name, found in self._found.items()
        }
        ordered: list[Choice] = []
        placed: set[str] = set()
        waiting = list(done.values())
        while waiting:
            later: list[Choice] = []
            for choice in waiting:
                ready = all(term.choice in placed for terms in choice.when for term in terms)
                if ready:
                    ordered.append(choice)
                    placed.add(choice.name)
                else:
                    later.append(choice)
            if len(later) == len(waiting):
                names = ", ".join(repr(choice.name) for choice in later)
                raise SpaceError(
                    f"the choices {names} depend on each other through shared labels; give them labels of their own"
                )
            waiting = later
        return ordered

    def _when(self, found: _Found) -> Always:
        alternatives = dict.fromkeys(self._shortened(terms) for terms in self._joined(list(found.when)))
        return () if () in alternatives else tuple(alternatives)

    def _joined(self, alternatives: list[tuple[Term, ...]]) -> list[tuple[Term, ...]]:
        """Alternatives that differ in their last choice alone and together leave none of its decisions out: one."""
        shared: dict[tuple[tuple[Term, ...], str], set[Scalar]] = {}
        for terms in alternatives:
            if terms:
                shared.setdefault((terms[:-1], terms[-1].choice), set()).update(terms[-1].values)
        for (head, name), values in shared.items():
            choice = self._found[name].choice
            free = isinstance(choice, Subset) and choice.choose is None
            if values == set(choice.options) and not free:
                rest = [t for t in alternatives if not t or (t[:-1], t[-1].choice) != (head, name)]
                return self._joined([head, *rest])
        return alternatives

    def _shortened(self, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        """A term on a choice that stands in one place implies all before it: it would not be active otherwise."""
        for i in range(len(terms) - 1, 0, -1):
            if len(self._found[terms[i].choice].places) == 1 and len(self._found[terms[i].choice].when) == 1:
                return terms[i:]
        return terms


def _members(found: _Found) -> tuple[str, ...]:
    return () if found.places == [found.choice.name] else tuple(found.places)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
