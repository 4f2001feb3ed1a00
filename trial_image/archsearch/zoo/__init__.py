"""Search spaces of the literature, by name, and their published architectures as plain networks.

`build` and `architecture` import torch, and so does each space's module; entry points load them where they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch.zoo.building import architecture, build, published
    from archsearch.zoo.operations import set_drop_path

__all__ = ["architecture", "build", "published", "set_drop_path"]

_PLACES = {"architecture": "building", "build": "building", "published": "building", "set_drop_path": "operations"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"archsearch.zoo.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'archsearch.zoo' has no attribute {name!r}")
