"""The CRD on a real API server: accepted, explained, defaulted as the models do, and refusing what it can."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from support.apiserver import ApiServer
from support.bad_manifests import DOCUMENTS, SOUND, Bad

from archsearch.spec import ExperimentSpec, NASExperiment
from archsearch.spec.explain import names_of
from archsearch.spec.load import load_experiment
from archsearch.spec.pods import Trials
from archsearch.spec.unsupported import UNSUPPORTED

pytestmark = pytest.mark.integration
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
CRD = "nasexperiments.archsearch.dev"
MINIMAL = {
    "objectives": [{"metric": "accuracy"}],
    "modelSpace": {"zoo": {"name": "nasbench201"}},
    "strategy": {"name": "random"},
    "evaluator": {"name": "classification"},
    "ttlSecondsAfterFinished": None,
}


def _manifest(name: str, spec: object) -> dict[str, object]:
    return {**{key: SOUND[key] for key in ("apiVersion", "kind")}, "metadata": {"name": name}, "spec": spec}


def test_is_structural_and_established(crd_server: ApiServer) -> None:
    conditions = {each["type"]: each["status"] for each in crd_server.get("crd", CRD)["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


def test_the_server_defaults_as_the_models_do(crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    crd_server.apply(_manifest("minimal", MINIMAL), "-n", namespace)
    found = crd_server.get("nasx", "minimal", "-n", namespace)["spec"]
    assert found == ExperimentSpec.model_validate(MINIMAL).to_json()


def test_the_sound_manifest_is_stored_as_it_is(crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    crd_server.apply(SOUND, "-n", namespace)
    stored = crd_server.get("nasx", "digits", "-n", namespace)
    given = NASExperiment.model_validate(SOUND)
    assert NASExperiment.model_validate(stored).spec == given.spec


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_taken_and_keeps_its_meaning(crd_server: ApiServer, path: Path) -> None:
    experiment = load_experiment(path)
    namespace = crd_server.namespace()
    crd_server.kubectl("create", "-f", str(path), "-n", namespace)
    stored = crd_server.get("nasx", experiment.metadata.name, "-n", namespace)
    assert NASExperiment.model_validate(stored).spec == experiment.spec


def test_explain_describes_every_field_of_trials(crd_server: ApiServer) -> None:
    text = crd_server.kubectl("explain", "nasx.spec.trials").stdout
    flat = " ".join(text.split())
    for name, field in Trials.model_fields.items():
        assert " ".join((field.description or "missing").split()) in flat, name
    assert all(name in text for name in names_of(Trials))
    assert "enum: InProcess, Fork, Pod" in text
    recursive = crd_server.kubectl("explain", "nasx", "--recursive").stdout
    assert "conditions" in recursive
    assert "historyHash" not in recursive


def test_columns_short_name_category_and_status(crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    crd_server.apply(SOUND, "-n", namespace)
    status = {
        "state": "Running",
        "conditions": [
            {
                "type": "Running",
                "status": "True",
                "reason": "Searching",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "search": {
            "progress": "12/40",
            "trials": {"running": 2, "failed": 1},
            "best": [{"number": 7, "value": "0.97", "architecture": {"a": "conv"}}],
        },
    }
    patch = json.dumps({"status": status})
    crd_server.kubectl("patch", "nasx", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    lines = crd_server.kubectl("get", "archsearch", "-n", namespace).stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "STRATEGY", "TRIALS", "RUNNING", "FAILED", "BEST", "AGE"]
    assert lines[1].split()[:7] == ["digits", "Running", "regularized-evolution", "12/40", "2", "1", "0.97"]
    assert crd_server.get("nasx", "digits", "-n", namespace)["status"] == status
    selected = crd_server.get("nasx", "-n", namespace, "--field-selector", "spec.strategy.name=random")
    assert selected["items"] == []
    selected = crd_server.get("nasx", "-n", namespace, "--field-selector", "status.state=Running")
    assert len(selected["items"]) == 1


def test_scale_changes_parallel_trials(crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    crd_server.apply(SOUND, "-n", namespace)
    crd_server.kubectl("scale", "nasx", "digits", "-n", namespace, "--replicas=5")
    assert crd_server.get("nasx", "digits", "-n", namespace)["spec"]["parallelTrials"] == 5
    refused = crd_server.kubectl("scale", "nasx", "digits", "-n", namespace, "--replicas=50", check=False)
    assert refused.returncode != 0


def test_status_refuses_nonsense(crd_server: ApiServer) -> None:
    namespace = crd_server.namespace()
    crd_server.apply(SOUND, "-n", namespace)
    patch = json.dumps({"status": {"conditions": [{"type": "Running", "status": "Perhaps", "reason": "x"}]}})
    refused = crd_server.kubectl(
        "patch", "nasx", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch, check=False
    )
    assert "supported values" in refused.stderr


@pytest.mark.parametrize("bad", [bad for bad in DOCUMENTS if bad.api], ids=lambda bad: bad.name)
def test_refused_by_the_server(crd_server: ApiServer, bad: Bad) -> None:
    done = crd_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=bad.manifest(), check=False)
    assert done.returncode != 0, done.stdout
    assert re.search(bad.api, done.stderr), done.stderr


def test_what_only_its_meaning_makes_bad_is_taken(crd_server: ApiServer) -> None:
    """These are the driver's to refuse (Accepted=False); the table must say so of no others."""
    left = [bad for bad in DOCUMENTS if not bad.api]
    items = []
    for bad in left:
        item = copy.deepcopy(bad.document())
        item["metadata"]["name"] = bad.name
        items.append(item)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    done = crd_server.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=listed)
    assert len(done.stdout.split()) == len(left)


def test_every_unsupported_field_has_a_case() -> None:
    names = " ".join(bad.offline.replace("\\", "") for bad in DOCUMENTS)
    assert [field.path for field in UNSUPPORTED if f"spec.{field.path}: is not supported" not in names] == []
