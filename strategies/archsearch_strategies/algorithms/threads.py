"""Linear algebra on one thread."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """While it is open, numpy's matrix routines use one thread, where threadpoolctl is installed.

    The matrices here are too small for more, workers on the same machine need the cores, and results do not depend on
    their number.
    """
    controller = _controller()
    return nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")


@cache
def _controller() -> Any:
    """Looks through the process's libraries, so once."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
