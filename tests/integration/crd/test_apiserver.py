"""The test API server itself: it serves, and it comes back with its data after it was taken away."""

import pytest
from support.apiserver import ApiServer

pytestmark = pytest.mark.integration


def test_survives_a_restart(api_server: ApiServer) -> None:
    if not api_server.own:
        pytest.skip("the cluster of KUBECONFIG is not restarted")
    namespace = api_server.namespace()
    api_server.stop()
    assert api_server.kubectl("get", "--raw", "/readyz", check=False).returncode != 0
    api_server.start()
    assert api_server.get("namespace", namespace)["metadata"]["name"] == namespace
