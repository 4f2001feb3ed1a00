"""What a result depends on, by digest; and the results of earlier runs that need not be computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import archsearch
from archsearch import registry
from archsearch.errors import UserError
from archsearch.protocol import Outcome, TrialKind, TrialState
from archsearch.space import digest
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.earlier import EarlierRun, absolute
from archsearch_strategies.driver.rows import CANDIDATES, REUSABLE, Row
from archsearch_strategies.lease.judgement import judged

_KINDS = frozenset({TrialKind.EVALUATE, TrialKind.SUPERNET, TrialKind.INHERIT, TrialKind.PROXY})
_OF_MACHINE = frozenset({"latencyMs", "latencySpreadMs", "peakMemoryBytes"})
_LINKS = ("checkpointOf", "checkpoint")  # parameters that name weights: compared by where those lie

Key = tuple[str, str, int, str, str]


def identity_parts(spec: ExperimentSpec, space_digest: str, origin: JsonObject) -> dict[str, str | None]:
    """Digests of all that a result depends on besides its architecture, seed, parameters and input weights.

    Args:
        origin: what the describe trial told of code and data (`archsearch.evaluate.origin`).

    Returns:
        By part a digest, or None where it is not known.
    """
    model_space = spec.model_space.to_json()
    if isinstance(python := model_space.get("python"), dict):
        model_space["python"] = {name: value for name, value in python.items() if name != "source"}
    data = origin.get("data")
    return {
        "archsearch version": archsearch.__version__,
        "image": spec.trials.image,
        "space": space_digest,
        "modelSpace": digest(model_space),
        "evaluator": digest(_evaluator(spec)),
        "code": origin.get("code"),
        "data": None if data is None else digest(data),
    }


def reuse_digest(parts: Mapping[str, str | None]) -> str:
    """Results with the same one are exchangeable; empty where a part is not known."""
    return "" if not parts or None in parts.values() else digest(dict(parts))


def differences(run: EarlierRun, parts: Mapping[str, str | None]) -> list[str]:
    """The parts that are not known, or are others than those of `run`."""
    return [name for name, value in parts.items() if value is None or run.identity.get(name) != value]


class KnownResults:
    """Results of earlier runs that a trial of this run would only repeat.

    Such a result is of the same architecture, kind, seed and parameters, and all of `identity_parts` is the same. A
    trial that begins with weights must begin with the very same. What was measured on a machine (latency, memory) is
    not taken over, and infeasibility only from a run with the same constraints.

    Args:
        own: URI of this run.
        needs_weights: later trials may begin with any trial's weights, so a result without them is of no use.
    """

    def __init__(
        self, runs: Sequence[EarlierRun], reuse: str, spec: ExperimentSpec, own: str, *, needs_weights: bool
    ) -> None:
        self._spec = spec
        self._own = own
        self._needs_weights = needs_weights
        self._found: dict[Key, tuple[Row, str]] = {}
        for run in runs:
            if reuse and run.reuse == reuse:  # the space is part of it
                self._take(run)

    def __len__(self) -> int:
        return len(self._found)

    def result(self, row: Row, time: float) -> r.Result | None:
        """The known result of a pending trial; None: it has to be run.

        Artefacts stay where they are: their keys name the earlier run.
        """
        known = self._found.get(_key(row, self._own))
        if known is None:
            return None
        source, uri = known
        outcome = Outcome(state=TrialState.INFEASIBLE, metrics=dict(source.metrics), message=source.message)
        if source.state in REUSABLE:
            outcome = outcome.model_copy(update={"state": TrialState.SUCCEEDED, "message": ""})
            outcome = judged(row, outcome, self._spec.objectives, self._spec.constraints)
        if outcome.state is TrialState.FAILED:  # it lacks a metric that is asked for now
            return None
        return r.Result(
            number=row.number or 0,
            state=TrialState.INFEASIBLE if outcome.state is TrialState.INFEASIBLE else TrialState.CACHED,
            metrics=dict(source.metrics),
            message=outcome.message,
            artifacts={name: absolute(uri, key) for name, key in source.artifacts.items()},
            payload=source.payload,
            source=source.source if source.source_uri else source.number,
            source_uri=source.source_uri or uri,
            time=time,
        )

    def _take(self, run: EarlierRun) -> None:
        same_constraints = run.spec.get("constraints") == self._spec.to_json().get("constraints")
        for row in run.table.rows.values():
            if row.kind not in _KINDS or (row.kind in CANDIDATES and self._measured):
                continue
            if row.state in REUSABLE:
                usable = self._has_weights(row)
            else:
                usable = row.state is TrialState.INFEASIBLE and same_constraints
            if usable:
                self._found.setdefault(_key(row, run.uri), (row, run.uri))

    @property
    def _measured(self) -> bool:
        named = {each.metric for each in self._spec.objectives} | {each.metric for each in self._spec.constraints}
        return not named.isdisjoint(_OF_MACHINE)

    def _has_weights(self, row: Row) -> bool:
        wanted = row.kind is TrialKind.SUPERNET or (self._needs_weights and row.kind is TrialKind.EVALUATE)
        return not wanted or "checkpoint" in row.artifacts


def _key(row: Row, uri: str) -> Key:
    params = {name: value for name, value in row.params.items() if name not in _LINKS}
    return (row.kind.value, row.hash, row.seed, json.dumps(params, sort_keys=True), absolute(uri, row.input))


def _evaluator(spec: ExperimentSpec) -> JsonObject:
    """With every option, so that one that is written out and one left at its default are the same."""
    document = spec.evaluator.to_json()
    if spec.evaluator.name is None:
        return document
    try:
        found = registry.find("archsearch.evaluators", spec.evaluator.name)
        document["config"] = found.Config.model_validate(spec.evaluator.config).to_json()
    except (UserError, ValueError):  # registered in the trials' image only
        pass
    return document
