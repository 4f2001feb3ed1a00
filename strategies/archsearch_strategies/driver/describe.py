"""The search space of a run: described by a worker, kept as `space.json`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import archsearch
from archsearch.errors import UserError
from archsearch.evaluate.base import PROFILE_METRICS
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import SearchSpace, digest
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.problems import Problem, SpecError
from archsearch.store import KeyMissing, Store
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.strategy import Strategy

SPACE_KEY = "space.json"
FORMAT_VERSION = 1


async def find_space(
    store: Store, spec: ExperimentSpec, accepted: str | None, control: Callable[[Row], Awaitable[Row]]
) -> tuple[SearchSpace, JsonObject]:
    """The search space of a run: the kept one, or what a worker describes. With it, what is known of code and data.

    Args:
        accepted: digest of the space that the run was started with, if it was.
        control: has a worker do a trial without a number.

    Raises:
        UserError: it cannot be described, or is another one.
        StoreError: it cannot be kept.
    """
    found = await asyncio.to_thread(cached_space, store, spec, accepted)
    if found is not None:
        return found
    row = await control(Row(number=None, kind=TrialKind.DESCRIBE))
    space = described_space(row)
    check_metrics(row, spec)
    origin: JsonObject = row.payload.get("origin") or {}
    await asyncio.to_thread(save_space, store, space, origin, spec, accepted)
    return space, origin


def check_strategy(strategy: Strategy[Any], space: SearchSpace, spec: ExperimentSpec) -> None:
    """Ask the strategy whether it can search the space.

    Raises:
        SpecError: it cannot; says why.
    """
    name = spec.strategy.name
    faults = strategy.check(space)
    if faults:
        raise SpecError([Problem("spec.modelSpace", f"strategy {name!r} cannot search it: {each}") for each in faults])


def source_digest(spec: ExperimentSpec) -> str:
    """Of what a space is derived from."""
    source = {
        "modelSpace": spec.model_space.to_json(),
        "evaluator": spec.evaluator.to_json(),
        "version": archsearch.__version__,
    }
    return digest(source)


def cached_space(store: Store, spec: ExperimentSpec, accepted: str | None) -> tuple[SearchSpace, JsonObject] | None:
    """The space in the store, with what is known of its origin, if it is this run's.

    That is the accepted one, or one of the zoo for the same source.

    A user's code may have changed since, so without acceptance it is described again. None: describe it.
    """
    try:
        document = json.loads(store.get(SPACE_KEY))
        space, origin = SearchSpace.from_json(document["space"]), document.get("origin") or {}
    except (KeyMissing, ValueError, KeyError, TypeError, UserError):
        return None
    if accepted is not None:
        return (space, origin) if space.digest == accepted else None
    known = spec.model_space.zoo is not None and document.get("source") == source_digest(spec)
    return (space, origin) if known else None


def described_space(row: Row) -> SearchSpace:
    """The space that a finished describe trial gave.

    Raises:
        UserError: the trial failed, or what it gave is no search space.
    """
    if row.state is not TrialState.SUCCEEDED:
        message = row.message.strip() or "its description failed"
        if message.startswith("spec."):
            raise UserError(message)
        place = "spec.evaluator" if message.startswith("the data set ") else "spec.modelSpace"
        raise UserError(f"{place} cannot be used: {message}")
    try:
        return SearchSpace.from_json(row.payload["space"])
    except (KeyError, TypeError) as error:
        raise UserError("spec.modelSpace: the worker's description holds no search space") from error


def check_metrics(row: Row, spec: ExperimentSpec) -> None:
    """Check objectives and constraints against what the evaluator declares, where the describe trial told it.

    Raises:
        UserError: names the field and the declared metrics.
    """
    declared: Any = (row.payload or {}).get("metrics")
    named = {f"objectives[{index}]": each.metric for index, each in enumerate(spec.objectives)}
    named |= {f"constraints[{index}]": each.metric for index, each in enumerate(spec.constraints)}
    for place, metric in named.items():
        if declared is not None and metric not in (*declared, *PROFILE_METRICS):
            raise UserError(
                f"spec.{place}.metric: the evaluator reports no {metric!r}, "
                f"only {', '.join(declared)}; of any network {', '.join(PROFILE_METRICS)} can be had"
            )


def save_space(
    store: Store, space: SearchSpace, origin: JsonObject, spec: ExperimentSpec, accepted: str | None
) -> None:
    """Keep it for the next driver and for readers.

    Raises:
        UserError: the ledger was accepted with another space.
        StoreError: it cannot be written.
    """
    if accepted is not None and space.digest != accepted:
        raise UserError(
            f"the search space is not the one that the run in {store.uri} was started with (digest "
            f"{space.digest[:12]}, then {accepted[:12]}): the model's code or its arguments changed; take another name "
            "or --storage, or the code as it was"
        )
    document: JsonObject = {
        "formatVersion": FORMAT_VERSION,
        "digest": space.digest,
        "source": source_digest(spec),
        "origin": origin,
        "space": space.to_json(),
    }
    store.put(SPACE_KEY, json.dumps(document, indent=1).encode())
