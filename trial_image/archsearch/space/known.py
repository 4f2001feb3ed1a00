"""Search spaces of the zoo that are known without building their networks, and so without torch."""

from __future__ import annotations

from collections.abc import Callable

from archsearch.space.choices import Categorical
from archsearch.space.space import SearchSpace

_NASBENCH201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def _nasbench201() -> SearchSpace:
    edges = (f"edge_{source}_{target}" for target in range(1, 4) for source in range(target))
    return SearchSpace([Categorical(edge, _NASBENCH201) for edge in edges], canonicaliser="nasbench201")


_SPACES: dict[str, Callable[[], SearchSpace]] = {"nasbench201": _nasbench201}


def known_space(name: str) -> SearchSpace | None:
    """The space that the zoo entry `name` has by default, less the places in its network; None: it is not known here.

    Names, decisions and their order are the network's own, its digest is not (that covers the places).
    """
    make = _SPACES.get(name)
    return None if make is None else make()
