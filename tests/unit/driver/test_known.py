"""Which results of earlier runs a trial would only repeat."""

from __future__ import annotations

from typing import Any

import pytest

from archsearch.protocol import TrialKind, TrialState
from archsearch.spec.experiment import ExperimentSpec
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.earlier import EarlierRun
from archsearch_strategies.driver.known import KnownResults, differences, identity_parts, reuse_digest
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.trials import TrialTable
from tests.support import fake_worker as fake

ORIGIN: dict[str, Any] = {"code": "c0de", "data": {"digits": "da7a"}}


def spec(**changes: Any) -> ExperimentSpec:
    return fake.experiment(**changes).spec


def run_of(uri: str, *records: r.Submitted | r.Result) -> EarlierRun:
    table = TrialTable(spec().objectives)
    for record in records:
        table.apply(record)
    return EarlierRun("spec.warmStart[0].uri", uri, spec().to_json(), "5pace", {}, "same", table)


def submitted(number: int, kind: TrialKind = TrialKind.EVALUATE, **more: Any) -> r.Submitted:
    own = {"hash": f"h{number}"} if kind is not TrialKind.SUPERNET else {}
    return r.Submitted(number=number, kind=kind, **{"seed": number, **own, **more})


def succeeded(number: int, weights: bool = True, **more: Any) -> r.Result:
    artifacts = {"checkpoint": f"trials/{number}/weights/1-1"} if weights else {}
    metrics = {"accuracy": 0.5}
    return r.Result(
        **{
            "number": number,
            "state": TrialState.SUCCEEDED,
            "metrics": metrics,
            "artifacts": artifacts,
            "time": 0.0,
            **more,
        }
    )


def known(*runs: EarlierRun, reuse: str = "same", needs_weights: bool = False, **changes: Any) -> KnownResults:
    return KnownResults(runs, reuse, spec(**changes), "s3://b/now", needs_weights=needs_weights)


def asked(number: int, kind: TrialKind = TrialKind.EVALUATE, **more: Any) -> Row:
    return Row(**{"number": 90 + number, "kind": kind, "hash": f"h{number}", "seed": number, **more})


def test_all_but_the_number_must_be_the_same() -> None:
    found = known(run_of("s3://b/first", submitted(1, params={"config": {"a": 1}}), succeeded(1)))
    row = asked(1, params={"config": {"a": 1}})
    result = found.result(row, 7.0)
    assert result is not None
    assert (result.number, result.state, result.source, result.source_uri) == (91, TrialState.CACHED, 1, "s3://b/first")
    assert result.artifacts == {"checkpoint": "s3://b/first/trials/1/weights/1-1"}
    for other in ({"params": {}}, {"hash": "h2"}, {"seed": 2}, {"kind": TrialKind.INHERIT}):
        assert found.result(asked(1, **{"params": {"config": {"a": 1}}, **other}), 7.0) is None
    assert len(known(run_of("s3://b/first", submitted(1), succeeded(1)), reuse="another")) == 0
    assert len(known(run_of("s3://b/first", submitted(1), succeeded(1)), reuse="")) == 0


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.PRUNED])
def test_what_failed_or_was_stopped_is_tried_again(state: TrialState) -> None:
    assert len(known(run_of("s3://b/first", submitted(1), succeeded(1, state=state)))) == 0


def test_a_result_without_weights_is_of_no_use_where_trials_begin_with_them() -> None:
    run = run_of("s3://b/first", submitted(1), succeeded(1, weights=False), submitted(2), succeeded(2))
    assert len(known(run)) == 2
    found = known(run, needs_weights=True)
    assert (found.result(asked(1), 0.0), found.result(asked(2), 0.0) is None) == (None, False)


def test_inherited_results_belong_to_their_supernet() -> None:
    """The very weights, wherever the chain of runs brought them from; not those of an equal training."""
    net, child = submitted(1, TrialKind.SUPERNET), submitted(2, TrialKind.INHERIT, params={"checkpointOf": 1})
    first = run_of("s3://b/first", net, succeeded(1), child, succeeded(2, weights=False))
    result = known(first).result(asked(1, TrialKind.SUPERNET, hash=""), 0.0)
    assert result is not None
    weights = result.artifacts["checkpoint"]
    inherit = {"kind": TrialKind.INHERIT, "params": {"checkpointOf": 5}}
    assert known(first).result(asked(2, **inherit, input=weights), 0.0) is not None
    assert known(first).result(asked(2, **inherit, input="trials/5/weights/1-1"), 0.0) is None
    # The second run took the supernet over, and evaluated another architecture with it.
    second = run_of(
        "s3://b/second",
        net,
        result.model_copy(update={"number": 1}),
        submitted(3, TrialKind.INHERIT, params={"checkpointOf": 1}),
        succeeded(3, weights=False),
    )
    assert known(first, second).result(asked(3, **inherit, input=weights), 0.0) is not None


def test_a_supernet_without_weights_is_trained_again() -> None:
    run = run_of("s3://b/first", submitted(1, TrialKind.SUPERNET), succeeded(1, weights=False))
    assert len(known(run)) == 0


def test_the_parts_of_an_identity() -> None:
    parts = identity_parts(spec(), "5pace", ORIGIN)
    digest = reuse_digest(parts)
    assert len(digest) == 64
    assert differences(run_of("s3://b/first"), parts) == list(parts)
    same = spec(strategy="grid", seed=9, budget={"maxTrials": 30}, parallelTrials=7, storage={"uri": "s3://b"})
    assert identity_parts(same, "5pace", ORIGIN) == parts  # who asks for a trial, and how often, changes no result
    longer = spec(evaluator={"name": "classification", "config": {"dataset": "digits", "epochs": 9}})
    changed = identity_parts(longer, "5pace", ORIGIN)
    assert [name for name in parts if changed[name] != parts[name]] == ["evaluator"]
    assert reuse_digest(changed) != digest
    for lacking in ({}, {"code": "c0de"}, {"code": None, "data": {}}):
        assert reuse_digest(identity_parts(spec(), "5pace", lacking)) == ""
    assert reuse_digest({}) == ""


def test_where_code_comes_from_is_no_part_but_its_digest() -> None:
    def python(source: dict[str, Any] | None) -> ExperimentSpec:
        return spec(modelSpace={"python": {"class": "m:Net", "source": source}})

    beside, mounted = (identity_parts(python(each), "5", ORIGIN) for each in (None, {"configMapName": "code"}))
    assert beside == mounted
    assert identity_parts(python(None), "5", {**ORIGIN, "code": "0ther"}) != beside
