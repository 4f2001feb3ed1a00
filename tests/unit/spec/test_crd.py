"""The generated files are fresh, and the schema keeps the rules that Kubernetes and its cost estimator ask for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from archsearch.spec.crd import CHART_PATH, CRD_PATH, chart_yaml, custom_resource_definition, main, stale
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.explain import names_of
from archsearch.spec.unsupported import UNSUPPORTED, unsupported_problems

REPOSITORY = Path(__file__).parents[3]


def _schema() -> dict[str, Any]:
    (version,) = custom_resource_definition()["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def _walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _walk(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _walk(schema[key], f"{path}[]")


FIELDS = [(path, schema) for part in ("spec", "status") for path, schema in _walk(_schema()["properties"][part], part)]


def test_generated_files_are_fresh() -> None:
    assert stale(REPOSITORY) == []


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "archsearch.spec.crd", "--root", str(tmp_path)]
    assert subprocess.run([*command, "--check"], check=False, capture_output=True).returncode == 1
    assert main(["--root", str(tmp_path)]) == 0
    assert stale(tmp_path) == []
    (tmp_path / CRD_PATH).write_text("changed")
    assert stale(tmp_path) == [CRD_PATH]
    assert main(["--root", str(tmp_path), "--check"]) == 1


def test_the_charts_copy_is_conditional_kept_and_otherwise_the_same() -> None:
    lines = chart_yaml().splitlines()
    assert lines[1] == "{{- if .Values.crds.enabled }}"
    assert lines[-1] == "{{- end }}"
    document = yaml.safe_load("\n".join(lines[2:-1]))
    assert document["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert document == yaml.safe_load((REPOSITORY / CRD_PATH).read_text())
    assert CHART_PATH.name == "crd.yaml"


@pytest.mark.parametrize(("path", "schema"), FIELDS, ids=[path for path, _ in FIELDS])
def test_every_field_is_typed_bounded_and_described(path: str, schema: dict[str, Any]) -> None:
    assert not {"$ref", "title", "anyOf", "$defs"} & schema.keys()
    kind = schema.get("type")
    assert kind or schema.get("x-kubernetes-int-or-string")
    if not path.endswith("[]"):
        assert schema.get("description"), "kubectl explain would say nothing"
    if kind == "string" and "enum" not in schema:
        assert schema["maxLength"] <= 20_000
    if kind == "array":
        assert schema["maxItems"] <= 1000
    if kind == "object" and "properties" not in schema:
        assert schema["maxProperties"] <= 256
    if kind == "integer":
        assert schema["format"] in ("int32", "int64")
    assert kind != "number", "no floats in typed fields"


def test_every_field_of_the_models_is_there() -> None:
    assert list(_schema()["properties"]["spec"]["properties"]) == names_of(ExperimentSpec)


def test_int_or_string_has_bounds_for_both() -> None:
    schema = dict(FIELDS)["spec.trials.perJob"]
    assert schema["minimum"] == 1
    assert schema["pattern"] == "^Auto$"
    assert schema["default"] == "Auto"


def test_a_status_has_no_defaults() -> None:
    assert [path for path, schema in FIELDS if path.startswith("status") and "default" in schema] == []


@pytest.mark.parametrize("field", UNSUPPORTED, ids=lambda field: field.path)
def test_unsupported_fields_exist_and_are_refused_both_ways(field: Any) -> None:
    schema = dict(FIELDS)[f"spec.{field.path}"]
    rules = {rule.get("fieldPath"): rule for rule in _schema()["properties"]["spec"]["x-kubernetes-validations"]}
    assert field.reason in rules[f".{field.path}"]["message"]
    value: Any = {"array": [{}], "object": {"x": 1}, "integer": 7, "string": "x"}[schema["type"]]
    spec: Any = value
    for key in reversed(field.path.split(".")):
        spec = {key: spec}
    (problem,) = unsupported_problems(spec)
    assert problem.path == f"spec.{field.path}"
    assert field.reason in str(problem)
    assert "leave it out" in str(problem)
    assert unsupported_problems({}) == []
