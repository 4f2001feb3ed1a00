"""`archsearch validate --live` against a real API server: what a file alone cannot tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.apiserver import ApiServer
from support.bad_manifests import SOUND
from typer.testing import CliRunner, Result

from archsearch_cli.main import app

pytestmark = pytest.mark.integration


def validate(folder: Path, *sets: str, **spec: Any) -> Result:
    document = json.loads(json.dumps(SOUND))
    document["spec"].update(storage={}, **spec)
    path = folder / "digits.yaml"
    path.write_text(json.dumps(document))
    overrides = [part for each in sets for part in ("--set", each)]
    return CliRunner().invoke(app, ["validate", "--live", str(path), *overrides])


@pytest.fixture
def namespace(crd_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KUBECONFIG", str(crd_server.kubeconfig))
    return crd_server.namespace()


def test_a_sound_one_passes(namespace: str, tmp_path: Path) -> None:
    done = validate(tmp_path, f"metadata.namespace={namespace}")
    assert done.exit_code == 0, done.output
    assert "yes" in done.stdout


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"volumes": [{"name": "data", "emptyDirr": {}}]}, r"unknown field .*emptyDirr"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/data"}]}, r"volumeMounts\[0\]\.name: Not found"),
        ({"tolerations": [{"operator": "Maybe"}]}, r"tolerations\[0\].*Maybe"),
        ({"affinity": {"nodeAffinity": {"required": 1}}}, r"unknown field"),
        ({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}, r"requests.*must be less than or equal"),
    ],
)
def test_a_template_that_makes_no_pod(namespace: str, tmp_path: Path, template: dict[str, Any], said: str) -> None:
    done = validate(tmp_path, f"metadata.namespace={namespace}", trials={"template": template})
    assert done.exit_code == 2
    assert re.search(said, done.stderr), done.stderr


def test_the_storage_secret_and_its_keys(namespace: str, tmp_path: Path, crd_server: ApiServer) -> None:
    sets = [f"metadata.namespace={namespace}", "spec.storage.uri=s3://bucket/x", "spec.storage.secretName=keys"]
    done = validate(tmp_path, *sets)
    assert done.exit_code == 2
    assert "spec.storage.secretName: namespace" in done.stderr
    assert "no such Secret" in done.stderr
    crd_server.kubectl("create", "secret", "generic", "keys", "-n", namespace, "--from-literal=AWS_ACCESS_KEY_ID=abc")
    done = validate(tmp_path, *sets)
    assert "the Secret has no AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "abc" not in done.stderr


def test_a_store_that_does_not_answer(namespace: str, tmp_path: Path) -> None:
    sets = ["spec.storage.uri=s3://bucket/x", "spec.storage.endpoint=http://127.0.0.1:9"]
    done = validate(tmp_path, f"metadata.namespace={namespace}", *sets)
    assert done.exit_code == 2
    assert "spec.storage" in done.stderr
    assert "127.0.0.1:9" in done.stderr


def test_an_unknown_namespace(namespace: str, tmp_path: Path) -> None:
    done = validate(tmp_path, f"metadata.namespace={namespace}-not")
    assert done.exit_code == 2
    assert f"{namespace}-not" in done.stderr


def test_an_image_that_no_registry_answers_for_is_told_as_unknown(namespace: str, tmp_path: Path) -> None:
    sets = [f"metadata.namespace={namespace}", "spec.trials.image=127.0.0.1:9/team/trial:1.0"]
    done = validate(tmp_path, *sets)
    assert done.exit_code == 0, done.output
    assert "spec.trials.image: whether 127.0.0.1:9/team/trial:1.0 can be pulled is not known" in done.stderr
