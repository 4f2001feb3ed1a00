"""Reading manifests: YAML as kubectl reads it, overrides, and every fault with its place, value and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bad_manifests import SOUND

from archsearch.errors import UserError
from archsearch.spec import NASExperiment
from archsearch.spec.explain import suggest
from archsearch.spec.load import load_experiment, override
from archsearch.spec.manifest import MAX_BYTES, parse_yaml, read_manifest
from archsearch.spec.problems import Problem, SpecError

TEXT = json.dumps(SOUND, indent=1)


def problems(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_experiment(text, overrides)
    assert isinstance(caught.value, UserError)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return str(caught.value)


def test_text_and_file_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "digits.yaml"
    path.write_bytes(b"\xef\xbb\xbf---\n" + TEXT.encode())
    assert load_experiment(path) == load_experiment(str(path)) == load_experiment(TEXT)
    assert load_experiment(TEXT).spec.strategy.config == {"population": 20, "sample": 5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+2", -250.0),
        (".5", 0.5),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 15),
        ("-12", -12),
        ("0", 0),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("yes", True),
        ("null", None),
        ("~", None),
        ("0.99", 0.99),
        ('"0.99"', "0.99"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("!!str 5", "5"),
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_scalars_are_read_as_kubectl_reads_them(text: str, value: object) -> None:
    found = parse_yaml(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_aliases_are_followed() -> None:
    assert parse_yaml("a: &x {k: [1]}\nb: *x\n", "test") == {"a": {"k": [1]}, "b": {"k": [1]}}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml: cannot be read: No such file" in problems(str(tmp_path / "nowhere.yaml"))
    assert "cannot be read" in problems(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    assert "is not UTF-8 text (byte 3)" in problems(str(binary))
    large = tmp_path / "large.yaml"
    large.write_text("é" * MAX_BYTES)
    assert "is larger than 1024 KiB" in problems(str(large))
    with pytest.raises(SpecError, match="is empty"):
        read_manifest("")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("spec.seed=3", lambda e: e.spec.seed == 3),
        ("metadata.name=other", lambda e: e.metadata.name == "other"),
        ("spec.objectives[0].target=0.5", lambda e: e.spec.objectives[0].target == "0.5"),
        ("spec.objectives.0.goal=Minimize", lambda e: e.spec.objectives[0].goal == "Minimize"),
        ("spec.objectives[1]={metric: loss}", lambda e: e.spec.objectives[1].metric == "loss"),
        ("spec.trials.perJob=4", lambda e: e.spec.trials.per_job == 4),
        ('spec.driver.nodeSelector["a.b/c"]=x', lambda e: e.spec.driver.node_selector == {"a.b/c": "x"}),
        ("spec.evaluator.config.learningRate=1e-3", lambda e: e.spec.evaluator.config["learningRate"] == 0.001),
        ("spec.suspend=true", lambda e: e.spec.suspend is True),
        ("spec.storage.region=1", lambda e: e.spec.storage.region == "1"),
        ("spec.storage.region=", lambda e: e.spec.storage.region == ""),
        ("spec.objectives[0].target=null", lambda e: e.spec.objectives[0].target is None),
        ("spec.storage.uri=s3://a-b/c=d", lambda e: e.spec.storage.uri == "s3://a-b/c=d"),
    ],
)  # fmt: skip
def test_overrides(text: str, read: object) -> None:
    assert callable(read)
    assert read(load_experiment(TEXT, [text]))


def test_later_overrides_win_and_the_document_given_stays() -> None:
    document = {"spec": {"seed": 1}}
    assert override(document, ["spec.seed=2", "spec.seed=3"]) == {"spec": {"seed": 3}}
    assert document == {"spec": {"seed": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed=1", "--set seed=1: does not name a field below spec"),
        ("spec.seed", "has no value; write it as spec.path=value"),
        ("spec.objectives[5].metric=x", "has the index 5, but the list has 1 entries"),
        ("spec.seed[0]=x", "has the index 0 where the manifest has no list"),
        ("spec.parallelTrials.x=1", "has 'x' below a value that is no mapping"),
        ("spec..seed=1", "has a path that cannot be read at '..seed'"),
        ("spec.seed=[1", "is not YAML"),
        ("spec.seed=!!python/name:os.system x", "has the tag !!python/name:os.system"),
        ("spec.sed=1", "spec.sed: no such field (it is 1); did you mean 'seed'?"),
    ],
)
def test_overrides_that_cannot_be(text: str, said: str) -> None:
    assert said in problems(TEXT, text)


def test_all_faults_are_listed_at_once() -> None:
    said = problems(TEXT, "spec.seed=-1", "spec.parallelTrials=0", "spec.storge={}", "metadata.name=X")
    assert len(said.splitlines()) == 4


def test_both_branches_of_a_union_make_one_problem() -> None:
    said = problems(TEXT, "spec.trials.perJob=some")
    assert said == "spec.trials.perJob: expected an integer or 'Auto' (it is \"some\")"


def test_suggestions() -> None:
    assert suggest("maxTrial", ["maxTrials", "seed"]) == "did you mean 'maxTrials'?"
    assert suggest("max_trials", ["maxTrials", "seed"]) == "did you mean 'maxTrials'?"
    assert suggest("zzz", ["b", "a"]) == "known here: a, b"


def test_a_problem_shows_long_values_short() -> None:
    text = str(Problem("spec.x", "expected less", "y" * 500, "shorten it"))
    assert text.startswith('spec.x: expected less (it is "yyy')
    assert text.endswith("…); shorten it")
    assert len(text) < 200


def test_items_of_a_list_parse_without_kind() -> None:
    bare = {key: value for key, value in SOUND.items() if key in ("metadata", "spec")}
    assert NASExperiment.model_validate(bare).kind == "NASExperiment"
