"""Named canonicalisers: they give architectures that compute the same one form, so that these can hash alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archsearch.space.architecture import Architecture
from archsearch.space.errors import SpaceError, listed

Canonicaliser = Callable[[Architecture], Any]

_KNOWN: dict[str, Canonicaliser] = {}


def register_canonicaliser(name: str, function: Canonicaliser) -> None:
    """Make `function` known here: it maps an architecture to a JSON value, equal for equivalent architectures.

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
            f"no canonicaliser named {name!r} is registered here (known: {known}); "
            "import the package that provides the space"
        ) from None


def has_canonicaliser(name: str) -> bool:
    """Whether `canonicaliser` knows the name here; that of a user's own space it may not."""
    return name in _KNOWN


def nasbench201_form(architecture: Architecture) -> str:
    """The function that a NAS-Bench-201 cell computes, as an expression over its input x; # is zero.

    A node is the sum of its incoming edges in sorted order, a skip connection is the identity, and an edge is zero when
    its operation is `none` or its source is zero. Cells that differ only in the numbering of equal nodes get one form.
    This is the benchmark's own grouping (Dong and Yang 2020, "NAS-Bench-201", section 2.1) of the 15,625 cells into
    6,466: sums inside a sum keep their place, so that the group of some cells rests on the characters' order # ( x.
    """
    nodes = ["x"]
    for target in range(1, 4):
        summands = []
        for source in range(target):
            operation, node = architecture[f"edge_{source}_{target}"], nodes[source]
            if operation == "none" or node == "#":
                summands.append("#")
            else:
                summands.append(node if operation == "skip_connect" else f"({node})@{operation}")
        nodes.append("+".join(sorted(summands)))
    return nodes[-1]


register_canonicaliser("nasbench201", nasbench201_form)
