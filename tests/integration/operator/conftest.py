"""The operator against a real API server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.apiserver import ApiServer
from support.operators import Cluster


@pytest.fixture
def cluster(crd_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(crd_server.kubeconfig))
    assert "KUBERNETES_SERVICE_HOST" not in os.environ
    secrets = tmp_path / "storage"
    secrets.mkdir()
    (secrets / "AWS_ACCESS_KEY_ID").write_text("default-id")
    (secrets / "AWS_SECRET_ACCESS_KEY").write_text("default-secret-value")
    made = Cluster(crd_server, secrets)
    yield made
    made.close()
    made.kubectl("delete", "nasx", "--all", "--wait=false", check=False)
    crd_server.kubectl("delete", "namespace", made.namespace, "--wait=false", check=False)
