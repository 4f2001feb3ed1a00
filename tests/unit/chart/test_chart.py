"""What can be said of the chart without helm."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from archsearch.spec import MUTABLE_FIELDS, ExperimentSpec, names
from archsearch_operator.metrics import Metrics
from archsearch_operator.objects import role_rules
from archsearch_operator.settings import ENV_PREFIX, Settings

CHART = Path(__file__).parents[3] / "helm" / "archsearch"
DEPLOYMENT = (CHART / "templates" / "deployment.yaml").read_text()
HELPERS = (CHART / "templates" / "_helpers.tpl").read_text()


def operator_rules() -> list[dict[str, Any]]:
    text = HELPERS.split('define "archsearch.operatorRules" -}}')[1].split("{{- end -}}")[0]
    return yaml.safe_load("\n".join(line for line in text.splitlines() if "{{" not in line))


def allowed(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_operators_rights() -> None:
    """A snapshot: whoever widens it does so knowingly."""
    assert {
        f"{group}/{resource}: {' '.join(sorted(rule['verbs']))}"
        for rule in operator_rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    } == {
        "archsearch.dev/nasexperiments: delete get list watch",
        "archsearch.dev/nasexperiments/status: patch",
        "archsearch.dev/nasexperiments/finalizers: update",
        "batch/jobs: create delete deletecollection get list patch watch",
        "/pods: get list",
        "/secrets: create",
        "/serviceaccounts: create patch",
        "/services: create patch",
        "/events: create list patch",
        "rbac.authorization.k8s.io/roles: create patch",
        "rbac.authorization.k8s.io/rolebindings: create delete patch",
        "networking.k8s.io/networkpolicies: create patch",
    }


def test_the_operator_holds_what_it_hands_on_and_nothing_that_escalates() -> None:
    held = allowed(operator_rules())
    assert allowed(role_rules("any")) <= held
    assert not {verb for _, _, verb in held} & {"*", "bind", "escalate", "impersonate"}
    assert {verb for _, resource, verb in held if resource == "secrets"} == {"create"}


def test_the_admission_policy_fixes_exactly_what_may_not_change() -> None:
    text = (CHART / "templates" / "admission.yaml").read_text()
    found = re.search(r"\$fixed := list ((?:\"\w+\" ?)+)", text)
    assert found is not None
    fields = {field.alias or name for name, field in ExperimentSpec.model_fields.items()}
    assert set(re.findall(r'"(\w+)"', found[1])) == fields - set(MUTABLE_FIELDS)


def test_the_deployment_sets_only_settings_that_there_are() -> None:
    given = set(re.findall(rf"{ENV_PREFIX}([A-Z_]+)", DEPLOYMENT))
    assert given <= {name.upper() for name in Settings.model_fields}
    assert {"TRIAL_IMAGE", "STORAGE_URI", "WATCH_NAMESPACES", "IDENTITY", "NAMESPACE"} <= given
    assert f"containerPort: {names.METRICS_PORT}" in DEPLOYMENT


def schema_paths(schema: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, child in schema.get("properties", {}).items():
        found |= {prefix + key} | schema_paths(child, f"{prefix}{key}.")
    return found


def value_paths(values: Any, schema: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, child in values.items():
        found.add(prefix + key)
        below = schema.get("properties", {}).get(key, {})
        if isinstance(child, dict) and "properties" in below:
            found |= value_paths(child, below, f"{prefix}{key}.")
    return found


def closed(schema: dict[str, Any]) -> bool:
    children = schema.get("properties", {})
    return (not children or schema.get("additionalProperties") is False) and all(map(closed, children.values()))


def test_schema_and_values_know_the_same_fields_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert value_paths(values, schema) == schema_paths(schema) - {"global"}
    assert closed(schema)


def test_every_value_is_described() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        leaf = re.match(r"^ *[A-Za-z]+: +\S", line)
        if leaf and not line.strip().startswith(("requests", "limits")):
            assert lines[number - 1].strip().startswith("#"), f"values.yaml:{number + 1}: {line.strip()} has no comment"


def test_the_users_values_are_there() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for part in (values["operator"], values["trial"], values["devStore"]):
        assert set(part["image"]) == {"repository", "tag", "pullPolicy"}
    assert set(values["storage"]) == {"uri", "endpoint", "region", "secretName"}
    assert values["gpuResource"] == "nvidia.com/gpu"
    assert values["watchNamespaces"] == []
    assert (values["crds"]["enabled"], values["devStore"]["enabled"]) == (True, False)


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return Metrics(list).registry


@pytest.mark.parametrize("file", ["files/rules.yaml", "files/dashboard.json"])
def test_every_metric_that_is_asked_for_exists(file: str, registry: CollectorRegistry) -> None:
    known = {metric.name for metric in registry.collect()}
    asked = set(re.findall(r"archsearch_(?:operator|experiment)_\w+", (CHART / file).read_text()))
    assert asked
    for name in asked:
        assert re.sub(r"_(total|count|bucket|sum)$", "", name) in known, name


def test_rules_have_what_a_reader_needs() -> None:
    for group in yaml.safe_load((CHART / "files" / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["alert"].startswith("Archsearch")
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]
