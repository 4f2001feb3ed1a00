"""The three kinds of choices, and the terms that conditions and constraints are made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from archsearch.space.canonical import MAX_INTEGER
from archsearch.space.errors import SpaceError, listed, shown
from archsearch.space.rng import Rng

Scalar = str | int | float | bool
Decision = Scalar | tuple[int | str, ...]
Decisions = Mapping[str, Decision]

MAX_NAME = 256
MAX_CANDIDATES = 4096


@dataclass(frozen=True, slots=True)
class Term:
    """Holds when the decision of `choice` is one of `values`; for a subset, when any of `values` is among the chosen.

    A term on a choice that is not active never holds.
    """

    choice: str
    values: tuple[Scalar, ...]

    def holds(self, decision: Decision | None) -> bool:
        if isinstance(decision, tuple):
            return any(value in decision for value in self.values)
        return decision is not None and decision in self.values


When = tuple[tuple[Term, ...], ...]


@dataclass(frozen=True)
class Choice(ABC):
    """One decision to take.

    Attributes:
        name: the key in an architecture.
        when: alternatives, each a list of terms on earlier choices; the choice is active when every term of one
            alternative holds. Empty: always active.
        members: the places in a model that share this decision. An architecture may name a member instead.
    """

    name: str
    when: When = field(default=(), kw_only=True)
    members: tuple[str, ...] = field(default=(), kw_only=True)

    type: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= MAX_NAME or not self.name.isprintable():
            raise SpaceError(f"a choice has a name of 1 to {MAX_NAME} printable characters, not {shown(self.name)}")
        self._check()

    def active(self, decisions: Decisions) -> bool:
        """Whether the choice exists under these decisions of earlier choices."""
        if not self.when:
            return True
        return any(all(term.holds(decisions.get(term.choice)) for term in terms) for terms in self.when)

    @property
    def where(self) -> str:
        """The choice as an error names it, with the places in the model that it stands for."""
        places = [member for member in self.members if member != self.name]
        return f"choice {self.name!r}" + (f" (at {listed(places, 3)})" if places else "")

    @property
    @abstractmethod
    def options(self) -> tuple[Scalar, ...]:
        """Candidates, values or inputs."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many decisions there are."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of the encoding, without the flag of a choice that is not always active."""

    @abstractmethod
    def _check(self) -> None: ...

    @abstractmethod
    def default(self) -> Decision:
        """What standalone mode takes: the first candidate, the first k inputs, all inputs where the number is free."""

    @abstractmethod
    def at(self, index: int) -> Decision:
        """The decision at an index below `count`."""

    @abstractmethod
    def accept(self, decision: Any) -> Decision | None:
        """The decision in its own form (the space's own value), or None where it is none of this choice's."""

    @abstractmethod
    def expected(self) -> str:
        """What a decision must be, in words."""

    @abstractmethod
    def changes(self, decision: Decision) -> Iterator[Decision]:
        """Every decision that one step makes of `decision`, which itself is not among them."""

    @abstractmethod
    def encode(self, decision: Decision) -> list[float]:
        """`width` numbers in [0, 1]."""

    @abstractmethod
    def decode(self, numbers: Sequence[float]) -> Decision:
        """The decision whose encoding is nearest."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The JSON fields of this kind."""

    def sample(self, rng: Rng) -> Decision:
        """A uniform decision."""
        return self.at(rng.integer(self.count))

    def change(self, decision: Decision, rng: Rng) -> Decision | None:
        """Another decision, one random step away; None where there is none."""
        others = list(self.changes(decision))
        return rng.choice(others) if others else None

    def iterate(self) -> Iterator[Decision]:
        """All decisions in order."""
        return (self.at(i) for i in range(self.count))

    def same_as(self, other: Choice) -> bool:
        """Whether both offer the same decisions, whatever their names and conditions."""
        return type(self) is type(other) and self.fields() == other.fields()


def _one_hot(options: Sequence[object], decision: object) -> list[float]:
    return [1.0 if option == decision else 0.0 for option in options]


def _check_options(where: str, word: str, options: Sequence[object]) -> None:
    if not isinstance(options, tuple):
        raise SpaceError(f"{where}: the {word} are a tuple, not {shown(options)}")
    if not options:
        raise SpaceError(f"{where} has no {word}; give at least one")
    if len(options) > MAX_CANDIDATES:
        raise SpaceError(f"{where} has {len(options)} {word}; at most {MAX_CANDIDATES} are possible")
    for option in options:
        if isinstance(option, str):
            if not 0 < len(option) <= MAX_NAME or not option.isprintable():
                raise SpaceError(
                    f"{where}: {shown(option)} among the {word} is not 1 to {MAX_NAME} printable characters"
                )
        elif not isinstance(option, int | float) or not math.isfinite(option) or abs(option) > MAX_INTEGER:
            raise SpaceError(
                f"{where}: {shown(option)} among the {word} is no string, boolean or number within ±(2**53 - 1)"
            )
    if len(set(options)) < len(options):
        twice = next(option for i, option in enumerate(options) if option in options[:i])
        raise SpaceError(
            f"{where} has {shown(twice)} twice among its {word} {shown(options)}; each must differ from the others"
        )


class _OneOf(Choice):
    """What categorical and ordinal choices have in common: one of `options`."""

    @property
    def count(self) -> int:
        return len(self.options)

    def default(self) -> Decision:
        return self.options[0]

    def at(self, index: int) -> Decision:
        return self.options[index]

    def changes(self, decision: Decision) -> Iterator[Decision]:
        return (option for option in self.options if option != decision)

    def change(self, decision: Decision, rng: Rng) -> Decision | None:
        options = self.options
        if len(options) == 1:
            return None
        index = rng.integer(len(options) - 1)
        return options[index if index < options.index(decision) else index + 1]


@dataclass(frozen=True)
class Categorical(_OneOf):
    """One of several named candidates. Decision: the candidate's name. Encoding: one-hot."""

    candidates: tuple[str, ...]

    type = "categorical"

    def _check(self) -> None:
        _check_options(f"choice {self.name!r}", "candidates", self.candidates)
        for candidate in self.candidates:
            if not isinstance(candidate, str):
                raise SpaceError(
                    f"choice {self.name!r}: the candidate {candidate!r} has no name; candidates are strings"
                )

    @property
    def options(self) -> tuple[Scalar, ...]:
        return self.candidates

    @property
    def width(self) -> int:
        return len(self.candidates)

    def accept(self, decision: Any) -> Decision | None:
        return decision if isinstance(decision, str) and decision in self.candidates else None

    def expected(self) -> str:
        return f"one of {listed(self.candidates)}"

    def encode(self, decision: Decision) -> list[float]:
        return _one_hot(self.candidates, decision)

    def decode(self, numbers: Sequence[float]) -> Decision:
        return self.candidates[max(range(len(numbers)), key=numbers.__getitem__)]

    def fields(self) -> dict[str, Any]:
        return {"candidates": list(self.candidates)}


@dataclass(frozen=True)
class Ordinal(_OneOf):
    """One of several ordered values: integers, floats, strings, booleans. Encoding: its rank, scaled to [0, 1]."""

    values: tuple[Scalar, ...]

    type = "ordinal"

    def _check(self) -> None:
        _check_options(f"choice {self.name!r}", "values", self.values)

    @property
    def options(self) -> tuple[Scalar, ...]:
        return self.values

    @property
    def width(self) -> int:
        return 1

    def accept(self, decision: Any) -> Decision | None:
        if not isinstance(decision, str | int | float):
            return None
        for value in self.values:
            if value == decision and isinstance(value, bool) == isinstance(decision, bool):
                return value
        return None

    def expected(self) -> str:
        return f"one of {listed(map(repr, self.values))}"

    def encode(self, decision: Decision) -> list[float]:
        return [self.values.index(decision) / max(len(self.values) - 1, 1)]

    def decode(self, numbers: Sequence[float]) -> Decision:
        last = len(self.values) - 1
        return self.values[min(max(math.floor(numbers[0] * last + 0.5), 0), last)]

    def fields(self) -> dict[str, Any]:
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Subset(Choice):
    """`choose` of several inputs; None: any number of them, none and all included.

    Inputs are named by strings or numbered from 0. Decision: a tuple of inputs in the order of `candidates`. Encoding:
    multi-hot.
    """

    candidates: tuple[int | str, ...]
    choose: int | None = None

    type = "subset"

    def _check(self) -> None:
        where = f"choice {self.name!r}"
        _check_options(where, "inputs", self.candidates)
        for candidate in self.candidates:
            if isinstance(candidate, bool | float):
                raise SpaceError(f"{where}: the input {candidate!r} is neither a name nor a number from 0")
        if self.choose is None:
            return
        if (
            isinstance(self.choose, bool)
            or not isinstance(self.choose, int)
            or not 0 < self.choose <= len(self.candidates)
        ):
            raise SpaceError(
                f"{where} chooses {shown(self.choose)} of {len(self.candidates)} inputs; "
                f"give a number from 1 to {len(self.candidates)}, or none for any number"
            )

    @property
    def options(self) -> tuple[Scalar, ...]:
        return self.candidates

    @property
    def count(self) -> int:
        n = len(self.candidates)
        return 1 << n if self.choose is None else math.comb(n, self.choose)

    @property
    def width(self) -> int:
        return len(self.candidates)

    def default(self) -> Decision:
        return self.candidates[: self.choose]

    def at(self, index: int) -> Decision:
        if self.choose is None:
            return tuple(c for i, c in enumerate(self.candidates) if index >> i & 1)
        chosen: list[int | str] = []
        n, left = len(self.candidates), self.choose
        for i, candidate in enumerate(self.candidates):
            if not left:
                break
            with_it = math.comb(n - i - 1, left - 1)  # lexicographic: those with this input come first
            if index < with_it:
                chosen.append(candidate)
                left -= 1
            else:
                index -= with_it
        return tuple(chosen)

    def accept(self, decision: Any) -> Decision | None:
        if not isinstance(decision, list | tuple) or any(
            isinstance(v, bool) or not isinstance(v, str | int) for v in decision
        ):
            return None
        chosen = set(decision)
        if len(chosen) < len(decision) or not chosen.issubset(self.candidates):
            return None
        if self.choose is not None and len(chosen) != self.choose:
            return None
        return self._ordered(chosen)

    def _ordered(self, chosen: set[int | str]) -> Decision:
        return tuple(c for c in self.candidates if c in chosen)

    def expected(self) -> str:
        number = "any number" if self.choose is None else str(self.choose)
        return f"a list of {number} of the inputs {listed(map(repr, self.candidates))}"

    def changes(self, decision: Decision) -> Iterator[Decision]:
        chosen = set(decision)  # type: ignore[arg-type]
        others = [c for c in self.candidates if c not in chosen]
        if self.choose is None:
            for candidate in self.candidates:
                yield self._ordered(chosen ^ {candidate})
        for old, new in ((old, new) for old in self._ordered(chosen) for new in others):  # type: ignore[union-attr]
            yield self._ordered(chosen - {old} | {new})

    def change(self, decision: Decision, rng: Rng) -> Decision | None:
        chosen = [c for c in self.candidates if c in decision]  # type: ignore[operator]
        others = [c for c in self.candidates if c not in chosen]
        kinds = ["add"] * (self.choose is None and bool(others)) + ["remove"] * (self.choose is None and bool(chosen))
        kinds += ["swap"] * (bool(chosen) and bool(others))
        if not kinds:
            return None
        kind, result = rng.choice(kinds), set(chosen)
        if kind != "add":
            result.remove(rng.choice(chosen))
        if kind != "remove":
            result.add(rng.choice(others))
        return self._ordered(result)

    def encode(self, decision: Decision) -> list[float]:
        return [1.0 if c in decision else 0.0 for c in self.candidates]  # type: ignore[operator]

    def decode(self, numbers: Sequence[float]) -> Decision:
        if self.choose is None:
            return tuple(c for c, number in zip(self.candidates, numbers, strict=True) if number >= 0.5)
        best = sorted(range(len(self.candidates)), key=lambda i: -numbers[i])[: self.choose]
        return self._ordered({self.candidates[i] for i in best})

    def fields(self) -> dict[str, Any]:
        return {"candidates": list(self.candidates), "choose": self.choose}
