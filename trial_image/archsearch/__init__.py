"""archsearch: neural architecture search as a Kubernetes workload, and the same file on a laptop.

The names that user code needs are loaded on first use, so that importing the package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch.evaluate.export import load
    from archsearch.nn import describe, fix

__version__ = "0.1.0"
__all__ = ["__version__", "describe", "fix", "load"]

_LAZY = {"describe": "archsearch.nn", "fix": "archsearch.nn", "load": "archsearch.evaluate.export"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'archsearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
