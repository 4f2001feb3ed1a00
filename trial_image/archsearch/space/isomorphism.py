"""Named canonicalisers: functions that give architectures which compute the same one form, so that they can hash alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archsearch.space.architecture import Architecture
from archsearch.space.errors import SpaceError, listed

Canonicaliser = Callable[[Architecture], Any]

_KNOWN: dict[str, Canonicaliser] = {}


def register_canonicaliser(name: str, function: Canonicaliser) -> None:
    """Make `function` known in this process: it maps an architecture to a JSON value, equal for equivalent architectures.

    Raises:
        SpaceError: the name stands for another function.
    """
    if _KNOWN.setdefault(name, function) is not function:
        raise SpaceError(f"a canonicaliser named {name!r} is registered already; choose another name")


def canonicaliser(name: str) -> Canonicaliser:
    """The function of that name.

    Raises:
        SpaceError: none is registered in this process.
    """
    try:
        return _KNOWN[name]
    except KeyError:
        known = listed(sorted(_KNOWN))
        raise SpaceError(
            f"no canonicaliser named {name!r} is registered here (known: {known}); import the package that provides the space"
        ) from None


def nasbench201_form(architecture: Architecture) -> str:
    """The function that a NAS-Bench-201 cell computes, as an expression over its input.

    A node is the unordered sum of its incoming edges and a skip connection is the identity, so cells that differ only in the
    numbering of equal nodes get one form. Over the 15,625 cells there are 6,466 forms, the number that Dong and Yang 2020
    ("NAS-Bench-201", section 2.1) count as unique. An edge `none` stays a summand of its own, as in that count.
    """
    nodes = ["x"]
    for target in range(1, 4):
        summands = []
        for source in range(target):
            operation = architecture[f"edge_{source}_{target}"]
            summands.append(nodes[source] if operation == "skip_connect" else f"{operation}({nodes[source]})")
        nodes.append("+".join(sorted(summands)))
    return nodes[-1]


register_canonicaliser("nasbench201", nasbench201_form)
