"""The search space and its operations."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from archsearch.space.architecture import Architecture
from archsearch.space.canonical import canonical_json, canonical_string, digest, sort_key
from archsearch.space.choices import Choice, Decision, Decisions, Subset
from archsearch.space.constraints import Constraint
from archsearch.space.counting import Counter
from archsearch.space.document import MAX_CHOICES, Reader, write_space
from archsearch.space.errors import ArchitectureError, SpaceError, listed, shown
from archsearch.space.isomorphism import canonicaliser as find_canonicaliser
from archsearch.space.rng import Rng

Predicate = Callable[[Architecture], bool]

ATTEMPTS = 10_000  # draws before a constrained operation gives up


class SearchSpace:
    """Named choices, the conditions between them, and constraints. Immutable; equal by its JSON document.

    Args:
        choices: in order; a condition may only ask for earlier choices.
        constraints: declarative bounds; every operation keeps them, and `size` counts with them.
        predicates: names of Python predicates that user code provides, or the predicates themselves by name. Predicates
            that are not held here (only their name is) are not checked: workers do.
        canonicaliser: name of a registered function that gives isomorphic architectures one form; "": none.

    Raises:
        SpaceError: two choices of one name, a condition or constraint on something that is not there.
    """

    def __init__(
        self,
        choices: Iterable[Choice],
        *,
        constraints: Iterable[Constraint] = (),
        predicates: Mapping[str, Predicate | None] | Sequence[str] = (),
        canonicaliser: str = "",
    ) -> None:
        self._choices = tuple(choices)
        self._constraints = tuple(constraints)
        self._predicates: dict[str, Predicate | None] = (
            dict(predicates) if isinstance(predicates, Mapping) else dict.fromkeys(predicates)
        )
        self._canonicaliser = canonicaliser
        self._by_name: dict[str, Choice] = {}
        self._check()
        self._aliases = self._members()
        self._plain = (
            not self._constraints and not any(c.when for c in self._choices) and not any(self._predicates.values())
        )
        self._fragments = self._compile()

    # --- the document

    @classmethod
    def from_json(cls, document: Any) -> SearchSpace:
        """Read a document.

        Raises:
            SpaceError: it is none; the text names the place in the document, the value and what was expected.
        """
        return cls(**Reader().read(document))

    def to_json(self) -> dict[str, Any]:
        """A new JSON document with a formatVersion."""
        return write_space(self._choices, self._constraints, self._predicates, self._canonicaliser)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the document, 64 hex digits."""
        return digest(self.to_json())

    @property
    def choices(self) -> tuple[Choice, ...]:
        return self._choices

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return self._constraints

    @property
    def predicates(self) -> tuple[str, ...]:
        """Names of the Python predicates, held here or not."""
        return tuple(self._predicates)

    @property
    def canonicaliser(self) -> str:
        return self._canonicaliser

    def with_predicates(self, predicates: Mapping[str, Predicate]) -> SearchSpace:
        """The same space with predicates that are called in this process."""
        return SearchSpace(
            self._choices,
            constraints=self._constraints,
            predicates={**self._predicates, **predicates},
            canonicaliser=self._canonicaliser,
        )

    def __getitem__(self, name: str) -> Choice:
        try:
            return self._by_name[self._aliases.get(name, name)]
        except KeyError:
            raise SpaceError(f"the search space has no choice {name!r}{self._hint(name)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._aliases

    def __len__(self) -> int:
        return len(self._choices)

    def __iter__(self) -> Iterator[Choice]:
        return iter(self._choices)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, SearchSpace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<SearchSpace of {len(self._choices)} choices, {self.digest[:12]}>"

    # --- architectures

    def validate(self, architecture: Mapping[str, Any]) -> Architecture:
        """The architecture in its own form: decisions of inactive choices dropped, members replaced by their choice.

        Raises:
            ArchitectureError: an unknown choice, a choice without decision, a decision that is none of the choice's, a
                broken constraint. The text names the choice and its places in the model.
        """
        if isinstance(architecture, Architecture) and architecture._space is self:
            return architecture
        given = self._named(Architecture(architecture))
        data: dict[str, Decision] = {}
        for choice in self._choices:
            accepted = choice.accept(given[choice.name]) if choice.name in given else None
            if choice.name in given and accepted is None:
                value = shown(Architecture(given).to_json()[choice.name])
                raise ArchitectureError(f"{choice.where}: {value} is not {choice.expected()}")
            if choice.active(data):
                if accepted is None:
                    raise ArchitectureError(
                        f"the architecture has no decision for {choice.where}; expected {choice.expected()}"
                    )
                data[choice.name] = accepted
        broken = self._broken(data)
        if broken:
            raise ArchitectureError(f"the architecture breaks the constraint {broken!r}")
        return self._made(data)

    def default(self) -> Architecture:
        """What standalone mode takes: the first candidate of every choice (all inputs where their number is free).

        Constraints are not asked, for the model runs so without any.
        """
        return self._made(self._complete(lambda choice: choice.default()))

    def sample(self, rng: Rng) -> Architecture:
        """A random architecture: every active choice uniform, drawn again while a constraint is broken.

        Raises:
            SpaceError: no architecture was found that satisfies the constraints.
        """
        if self._plain:
            return self._made({choice.name: choice.sample(rng) for choice in self._choices})
        return self._draw(lambda: self._complete(lambda choice: choice.sample(rng)), "sample")

    def mutate(self, architecture: Mapping[str, Any], rng: Rng) -> Architecture:
        """A child that differs in one active decision; choices that become active by it are sampled.

        A subset of fixed size changes by one swap, one of free size by adding, removing or swapping one input.

        Raises:
            ArchitectureError: the architecture is none of this space.
            SpaceError: no other architecture was found that satisfies the constraints.
        """
        parent = self.validate(architecture)._data
        movable = [name for name in parent if self._by_name[name].count > 1]
        if not movable:
            raise SpaceError("no decision of this architecture can change: each of its choices has one candidate")

        def draw() -> dict[str, Decision] | None:
            name = rng.choice(movable)
            changed = self._by_name[name].change(parent[name], rng)
            return (
                None if changed is None else self._rebuild({**parent, name: changed}, lambda choice: choice.sample(rng))
            )

        return self._draw(draw, "mutate")

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: Rng) -> Architecture:
        """A child that takes each active decision from a random parent; one that neither parent has is sampled.

        Raises:
            ArchitectureError: a parent is none of this space.
            SpaceError: no child was found that satisfies the constraints.
        """
        parents = (self.validate(a)._data, self.validate(b)._data)

        def take(choice: Choice) -> Decision:
            having = [parent[choice.name] for parent in parents if choice.name in parent]
            return rng.choice(having) if having else choice.sample(rng)

        return self._draw(lambda: self._complete(take), "cross")

    def neighbours(self, architecture: Mapping[str, Any], rng: Rng | None = None) -> Iterator[Architecture]:
        """Every architecture that one changed decision makes, in order, lazily; broken constraints are left out.

        Choices that become active are sampled where `rng` is given, and take their first candidate otherwise.
        """
        parent = self.validate(architecture)._data
        for name, decision in parent.items():
            for changed in self._by_name[name].changes(decision):
                data = self._rebuild({**parent, name: changed}, lambda c: c.sample(rng) if rng else c.default())
                if not self._broken(data):
                    yield self._made(data)

    def size(self) -> int:
        """How many architectures there are, exactly: constraints counted, predicates not.

        Raises:
            SpaceError: conditions and constraints tie too many choices together to count.
        """
        return self._counter.size

    def at(self, index: int) -> Architecture:
        """The architecture at an index of `enumerate`'s order; predicates are not asked.

        Raises:
            IndexError: the index is not in 0 … size − 1.
        """
        if not 0 <= index < self._counter.size:
            raise IndexError(f"the space has the indices 0 … {self._counter.size - 1}, not {index}")
        return self._made(self._counter.at(index))

    def enumerate(self, start: int = 0) -> Iterator[Architecture]:
        """All architectures from an index on, lazily, less what a predicate refuses; the last choice varies fastest."""
        for index in range(start, self._counter.size):
            architecture = self.at(index)
            if not self._refused(architecture):
                yield architecture

    def hash(self, architecture: Mapping[str, Any], *, isomorphic: bool = False) -> str:
        """SHA-256 of the canonical JSON (RFC 8785), inactive choices dropped, as 64 hex digits.

        Args:
            isomorphic: hash the canonical form instead, so that architectures that compute the same hash alike.

        Raises:
            ArchitectureError: the architecture is none of this space.
            SpaceError: `isomorphic` in a space without canonicaliser, or it is not registered here.
        """
        valid = self.validate(architecture)
        if isomorphic:
            if not self._canonicaliser:
                raise SpaceError(
                    "this search space has no canonicaliser, so isomorphic architectures cannot hash alike"
                )
            return digest(find_canonicaliser(self._canonicaliser)(valid))
        if valid._identity is None:
            data = valid._data
            if len(data) == len(self._fragments):
                parts = [texts[data[name]] if texts else _text(name, data[name]) for name, texts in self._fragments]
            else:
                parts = [_text(name, data[name]) for name, _ in self._fragments if name in data]
            valid._identity = hashlib.sha256(f"{{{','.join(parts)}}}".encode()).hexdigest()
        return valid._identity

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What each number of `encode` stands for: CHOICE, CHOICE=OPTION, or CHOICE? (the choice is active)."""
        names: list[str] = []
        for choice in self._choices:
            names += [f"{choice.name}?"] * bool(choice.when)
            names += [choice.name] if choice.width == 1 else [f"{choice.name}={option}" for option in choice.options]
        return tuple(names)

    def encode(self, architecture: Mapping[str, Any]) -> list[float]:
        """A vector of numbers in [0, 1], as long for every architecture, equal only for equal ones.

        One-hot for categorical choices, the scaled rank for ordinals, multi-hot for subsets. A choice with a condition
        is preceded by 1 where it is active; where it is not, all its numbers are 0.
        """
        data, vector = self.validate(architecture)._data, list[float]()
        for choice in self._choices:
            here = choice.name in data
            vector += [1.0 if here else 0.0] * bool(choice.when)
            vector += choice.encode(data[choice.name]) if here else [0.0] * choice.width
        return vector

    def decode(self, vector: Sequence[float]) -> Architecture:
        """The architecture whose encoding is nearest choice by choice; constraints are checked.

        Raises:
            ArchitectureError: the vector has another length, or a constraint is broken.
        """
        if len(vector) != len(self.columns):
            raise ArchitectureError(f"an encoding of this space has {len(self.columns)} numbers, not {len(vector)}")
        data: dict[str, Decision] = {}
        at = 0
        for choice in self._choices:
            at += bool(choice.when)
            if choice.active(data):
                data[choice.name] = choice.decode(vector[at : at + choice.width])
            at += choice.width
        return self.validate(data)

    # --- inside

    def _check(self) -> None:
        if len(self._choices) > MAX_CHOICES:
            raise SpaceError(f"a search space has at most {MAX_CHOICES} choices, not {len(self._choices)}")
        for choice in self._choices:
            if choice.name in self._by_name:
                raise SpaceError(
                    f"two choices have the name {choice.name!r}; a shared decision is one choice with members"
                )
            for term in (term for terms in choice.when for term in terms):
                self._check_term(term.choice, term.values, f"the condition of choice {choice.name!r}", "earlier ")
            self._by_name[choice.name] = choice
        for constraint in self._constraints:
            for term, _ in constraint.terms:
                self._check_term(term.choice, term.values, f"constraint {constraint.name!r}", "")

    def _members(self) -> dict[str, str]:
        """Each member's choice, where it is one only (a place in a model may depend on several)."""
        found: dict[str, set[str]] = {}
        for choice in self._choices:
            for member in choice.members:
                found.setdefault(member, set()).add(choice.name)
        return {
            member: next(iter(names))
            for member, names in found.items()
            if len(names) == 1 and member not in self._by_name
        }

    def _check_term(self, name: str, values: Sequence[Any], where: str, earlier: str) -> None:
        choice = self._by_name.get(name)
        if choice is None:
            raise SpaceError(f"{where} asks for {name!r}, which is no {earlier}choice{self._hint(name)}")
        for value in values:
            if value not in choice.options:
                raise SpaceError(
                    f"{where} asks for {shown(value)}, which choice {name!r} does not offer ({listed(choice.options)})"
                )

    def _hint(self, name: str) -> str:
        close = difflib.get_close_matches(name, [*self._by_name, *getattr(self, "_aliases", ())], 1)
        if close:
            return f"; did you mean {close[0]!r}?"
        return f"; its choices are {listed(self._by_name)}" if self._by_name else "; it has no choices"

    def _compile(self) -> tuple[tuple[str, dict[Decision, str] | None], ...]:
        """Each choice in canonical order with the JSON text of each of its decisions, as far as they can be listed."""
        ordered = sorted(self._choices, key=lambda choice: sort_key(choice.name))
        return tuple(
            (c.name, None if isinstance(c, Subset) else {option: _text(c.name, option) for option in c.options})
            for c in ordered
        )

    @cached_property
    def _counter(self) -> Counter:
        return Counter(self._choices, self._constraints)

    def _made(self, data: dict[str, Decision]) -> Architecture:
        return Architecture._made(data, self)

    def _named(self, architecture: Architecture) -> dict[str, Decision]:
        """By the names of choices, members resolved."""
        given: dict[str, Decision] = {}
        for key, decision in architecture.items():
            name = self._aliases.get(key, key)
            if name not in self._by_name:
                raise ArchitectureError(
                    f"the architecture decides {key!r}, which is no choice of this search space{self._hint(key)}"
                )
            if given.setdefault(name, decision) != decision:
                raise ArchitectureError(
                    f"{self._by_name[name].where} is one decision, but the architecture gives it "
                    f"{shown(given[name])} and {shown(decision)}"
                )
        return given

    def _complete(self, take: Callable[[Choice], Decision]) -> dict[str, Decision]:
        data: dict[str, Decision] = {}
        for choice in self._choices:
            if choice.active(data):
                data[choice.name] = take(choice)
        return data

    def _rebuild(self, base: Decisions, take: Callable[[Choice], Decision]) -> dict[str, Decision]:
        return self._complete(lambda choice: base[choice.name] if choice.name in base else take(choice))

    def _broken(self, data: dict[str, Decision]) -> str:
        """The name of the first broken constraint or predicate, or nothing."""
        if self._plain:
            return ""
        for constraint in self._constraints:
            if not constraint.allows(data):
                return constraint.name
        return self._refused(self._made(data))

    def _refused(self, architecture: Architecture) -> str:
        for name, predicate in self._predicates.items():
            if predicate is not None and not predicate(architecture):
                return name
        return ""

    def _draw(self, draw: Callable[[], dict[str, Decision] | None], verb: str) -> Architecture:
        broken: dict[str, int] = {}
        for _ in range(ATTEMPTS):
            data = draw()
            if data is not None:
                refused = self._broken(data)
                if not refused:
                    return self._made(data)
                broken[refused] = broken.get(refused, 0) + 1
        most = max(broken, key=lambda name: broken[name])
        raise SpaceError(
            f"cannot {verb}: none of {ATTEMPTS} random architectures satisfies the constraints "
            f"(most often broken: {most!r}); loosen them"
        )


def _text(name: str, decision: Decision) -> str:
    return f"{canonical_string(name)}:{canonical_json(decision)}"
