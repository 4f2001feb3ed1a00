"""The JSON document of a search space: read with errors that name the place, written without defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from archsearch.space.choices import Categorical, Choice, Ordinal, Subset, Term, When
from archsearch.space.constraints import Constraint
from archsearch.space.errors import SpaceError, listed, shown

FORMAT_VERSION = 1
MAX_CHOICES = 10_000
MAX_ITEMS = 100_000  # terms, members and constraints of a whole document

_FIELDS = {"formatVersion", "choices", "constraints", "predicates", "canonicaliser"}
_KINDS = {"categorical": {"candidates"}, "ordinal": {"values"}, "subset": {"candidates", "choose"}}


def write_space(
    choices: Iterable[Choice], constraints: Iterable[Constraint], predicates: Iterable[str], canonicaliser: str
) -> dict[str, Any]:
    """The document; what is empty is left out."""
    optional = {
        "constraints": [constraint.to_json() for constraint in constraints],
        "predicates": list(predicates),
        "canonicaliser": canonicaliser,
    }
    return {
        "formatVersion": FORMAT_VERSION,
        "choices": [_write_choice(choice) for choice in choices],
        **{key: value for key, value in optional.items() if value},
    }


def _write_choice(choice: Choice) -> dict[str, Any]:
    document = {"name": choice.name, "type": choice.type, **choice.fields()}
    if choice.when:
        document["when"] = [[{"choice": t.choice, "in": list(t.values)} for t in terms] for terms in choice.when]
    if choice.members:
        document["members"] = list(choice.members)
    return document


class Reader:
    """Reads one document; counts its items so that a hostile one is refused early."""

    def __init__(self) -> None:
        self._items = 0

    def read(self, document: Any) -> dict[str, Any]:
        """The arguments of `SearchSpace`.

        Raises:
            SpaceError: not a document of this format; the text names the place.
        """
        fields = self._object(document, "the search space", _FIELDS, {"formatVersion", "choices"})
        version = fields["formatVersion"]
        if isinstance(version, bool) or version != FORMAT_VERSION:
            raise SpaceError(
                f"formatVersion: this search space has version {shown(version)}, and this archsearch reads "
                f"{FORMAT_VERSION}; describe the model again, or use the archsearch that wrote it"
            )
        choices = self._list(fields["choices"], "choices", MAX_CHOICES)
        constraints = self._list(fields.get("constraints", []), "constraints")
        return {
            "choices": [self._choice(choice, f"choices[{i}]") for i, choice in enumerate(choices)],
            "constraints": [
                self._constraint(constraint, f"constraints[{i}]") for i, constraint in enumerate(constraints)
            ],
            "predicates": self._names(fields.get("predicates", []), "predicates"),
            "canonicaliser": self._string(fields.get("canonicaliser", ""), "canonicaliser"),
        }

    def _choice(self, value: Any, path: str) -> Choice:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(value, dict) and (not isinstance(kind, str) or kind not in _KINDS):
            raise SpaceError(f"{path}.type: {shown(kind)} is no kind of choice; expected {listed(_KINDS)}")
        own = _KINDS.get(str(kind), set())
        fields = self._object(value, path, {"name", "type", "when", "members"} | own, {"name", "type"} | own)
        when = self._when(fields.get("when", []), f"{path}.when")
        members = self._names(fields.get("members", []), f"{path}.members")
        name = self._string(fields["name"], f"{path}.name")
        options = tuple(self._list(fields["values" if kind == "ordinal" else "candidates"], path))
        try:
            if any(isinstance(option, list | dict) or option is None for option in options):
                raise SpaceError("candidates and values are strings, numbers or booleans")
            if kind == "categorical":
                return Categorical(name, options, when=when, members=members)
            if kind == "ordinal":
                return Ordinal(name, options, when=when, members=members)
            return Subset(name, options, fields["choose"], when=when, members=members)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from None

    def _when(self, value: Any, path: str) -> When:
        alternatives = self._list(value, path)
        return tuple(
            tuple(
                self._term(term, f"{path}[{i}][{j}]", set())[0]
                for j, term in enumerate(self._list(terms, f"{path}[{i}]"))
            )
            for i, terms in enumerate(alternatives)
        )

    def _term(self, value: Any, path: str, more: set[str]) -> tuple[Term, dict[str, Any]]:
        fields = self._object(value, path, {"choice", "in"} | more, {"choice", "in"})
        values = self._list(fields["in"], f"{path}.in")
        if any(not isinstance(v, str | int | float) for v in values):
            raise SpaceError(f"{path}.in: {shown(values)} holds something that is no string, number or boolean")
        return Term(self._string(fields["choice"], f"{path}.choice"), tuple(values)), fields

    def _constraint(self, value: Any, path: str) -> Constraint:
        fields = self._object(value, path, {"name", "terms", "min", "max"}, {"name", "terms"})
        terms: list[tuple[Term, float]] = []
        for i, item in enumerate(self._list(fields["terms"], f"{path}.terms")):
            term, own = self._term(item, f"{path}.terms[{i}]", {"weight"})
            terms.append((term, self._number(own.get("weight", 1), f"{path}.terms[{i}].weight")))
        bounds = {key: self._number(fields[key], f"{path}.{key}") for key in ("min", "max") if key in fields}
        try:
            return Constraint(
                self._string(fields["name"], f"{path}.name"), tuple(terms), bounds.get("min"), bounds.get("max")
            )
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from None

    def _object(self, value: Any, path: str, known: set[str], needed: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise SpaceError(f"{path} is an object, not {shown(value)}")
        unknown = [key for key in value if key not in known]
        if unknown:
            raise SpaceError(f"{path}: unknown field {shown(unknown[0])}; expected {listed(sorted(known))}")
        missing = sorted(needed - value.keys())
        if missing:
            raise SpaceError(f"{path}: the field {missing[0]!r} is missing")
        return value

    def _list(self, value: Any, path: str, limit: int = MAX_ITEMS) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise SpaceError(f"{path} is a list, not {shown(value)}")
        self._items += len(value)
        if len(value) > limit or self._items > 10 * MAX_ITEMS:
            raise SpaceError(f"{path} has {len(value)} items; a search space holds at most {limit} of them")
        return list(value)

    def _names(self, value: Any, path: str) -> tuple[str, ...]:
        return tuple(self._string(name, f"{path}[{i}]") for i, name in enumerate(self._list(value, path)))

    def _string(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or len(value) > 1024:
            raise SpaceError(f"{path} is a string of at most 1024 characters, not {shown(value)}")
        return value

    def _number(self, value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpaceError(f"{path} is a number, not {shown(value)}")
        return value
