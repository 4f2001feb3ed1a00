"""Fixtures of the integration tests."""

from pathlib import Path

import pytest
from support.apiserver import ApiServer, api_server

__all__ = ["api_server", "crd_server"]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def crd_server(api_server: ApiServer) -> ApiServer:
    """The API server with the CRD installed."""
    api_server.install_crd(REPOSITORY / "crds" / "archsearch.dev_nasexperiments.yaml")
    return api_server
