"""Both kinds of store, empty."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from archsearch.store import Store, open_store


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return open_store(str(tmp_path / "store"))
    return request.getfixturevalue("s3_server").store(uuid.uuid4().hex)
