"""A search space as a tree for people: each choice below the one that it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archsearch.space import Choice, SearchSpace

_SHOWN = 12  # candidates of a choice, places of a label
_KINDS = {"categorical": "one of", "ordinal": "value", "subset": "some of"}


@dataclass
class _Node:
    choice: Choice
    under: list[tuple[str, _Node]] = field(default_factory=list)  # (condition on the parent, child)


def tree_lines(space: SearchSpace) -> Iterator[str]:
    """A heading with the number of choices and architectures, then the choices in order."""
    size = space.size()
    digits = str(size)
    about = f" (about 10^{len(digits) - 1})" if len(digits) > 9 else ""
    yield f"{len(space)} choice{'' if len(space) == 1 else 's'}, {size:,} architecture{'' if size == 1 else 's'}{about}"
    for constraint in space.constraints:
        yield f"constraint {constraint.name}"
    for name in space.predicates:
        yield f"predicate {name}"
    roots = _nodes(space)
    for index, node in enumerate(roots):
        yield from _drawn(node, "", last=index == len(roots) - 1, condition="")


def _nodes(space: SearchSpace) -> list[_Node]:
    made: dict[str, _Node] = {}
    roots: list[_Node] = []
    for choice in space:
        node = made[choice.name] = _Node(choice)
        if not choice.when:
            roots.append(node)
            continue
        # The last term of an alternative is the nearest choice; others are told beside it.
        nearest = choice.when[0][-1]
        made[nearest.choice].under.append((_condition(choice, nearest.choice), node))
    return roots


def _condition(choice: Choice, parent: str) -> str:
    """The values of the parent alone where that says all, else every term."""
    alternatives = [
        " and ".join(
            ("" if term.choice == parent else f"{term.choice} ") + " | ".join(map(str, term.values)) for term in terms
        )
        for terms in choice.when
    ]
    return " or ".join(alternatives)


def _drawn(node: _Node, indent: str, *, last: bool, condition: str) -> Iterator[str]:
    branch = "└─ " if last else "├─ "
    head = f"{condition} → " if condition else ""
    yield f"{indent}{branch}{head}{describe_choice(node.choice)}"
    below = indent + ("   " if last else "│  ")
    for index, (each, child) in enumerate(node.under):
        yield from _drawn(child, below, last=index == len(node.under) - 1, condition=each)


def describe_choice(choice: Choice) -> str:
    """Name, what is chosen from what, and the places that share it."""
    kind = _KINDS[choice.type]
    if choice.type == "subset":
        number = choice.fields()["choose"]
        kind = "any of" if number is None else f"{number} of"
    text = f"{choice.name}: {kind} {_some([str(option) for option in choice.options])}"
    places = [place for place in choice.members if place != choice.name]
    where = "also at" if choice.name in choice.members else "shared by" if len(places) > 1 else "at"
    return f"{text}  [{where} {_some(places)}]" if places else text


def _some(words: list[str]) -> str:
    more = f", … {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
