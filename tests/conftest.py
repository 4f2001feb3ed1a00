"""Fixtures of all tests. Torch has one thread in each of them: several test processes share few cores."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.seaweedfs import s3_server

__all__ = ["s3_server"]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], bool]]:
    """Trials are on a device that pretends to be a GPU; gives what tells whether a tensor is there."""
    from support.elsewhere import pretending

    from archsearch.trial.context import TrialContext

    monkeypatch.setattr(TrialContext, "device", property(lambda self: "cuda"))
    with pretending() as there:
        yield there
