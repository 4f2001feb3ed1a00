"""The driver: runs one strategy durably, over a ledger, with workers that lease trials.

`Driver` and `Summary` are loaded on first use: readers of a ledger need only its records and the table of trials.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch_strategies.driver.bulletin import Listener
    from archsearch_strategies.driver.driver import Driver
    from archsearch_strategies.driver.summary import Summary

__all__ = ["Driver", "Listener", "Summary"]

_LAZY = {"Driver": "driver", "Listener": "bulletin", "Summary": "summary"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
