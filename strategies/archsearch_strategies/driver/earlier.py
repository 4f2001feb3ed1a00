"""The earlier runs that `spec.warmStart` names: their ledgers are read, and never written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from archsearch.errors import ArchsearchError, StoreError, StoreUnavailable, UserError
from archsearch.space import SearchSpace
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import Objective, WarmStart
from archsearch.store import Store, split_key
from archsearch.store.checkpoint import MANIFEST
from archsearch_strategies.driver.trials import TrialTable
from archsearch_strategies.ledger import read_ledger

Opener = Callable[[str], Store]  # from a URI to its store, with the keys of this run


@dataclass(frozen=True)
class EarlierRun:
    """What one ledger holds, with values of this run's objectives."""

    path: str  # where the manifest names it
    uri: str
    spec: JsonObject
    space: str  # digest
    identity: Mapping[str, str | None]
    reuse: str
    table: TrialTable


def read_runs(
    warm_start: Sequence[WarmStart], open_: Opener, objectives: Sequence[Objective], own: str
) -> list[EarlierRun]:
    """Every run that `spec.warmStart` names, as far as its ledger goes now.

    Args:
        own: URI of this run.

    Raises:
        UserError: one is no run, this run itself, of another version, damaged, or may not be read.
        StoreUnavailable: a store does not answer.
    """
    return [read_run(index, each.uri, open_, objectives, own) for index, each in enumerate(warm_start)]


def read_run(index: int, uri: str, open_: Opener, objectives: Sequence[Objective], own: str = "") -> EarlierRun:
    """The run of `spec.warmStart[index]`. Arguments and exceptions as `read_runs`."""
    path = f"spec.warmStart[{index}].uri"
    store = open_(uri)
    if store.uri == own:
        raise UserError(f"{path}: {uri} is this run itself; name an earlier one, or leave it out")
    table, versions = TrialTable(objectives), set[str]()
    try:
        table.replay(_noting(versions, read_ledger(store)))
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise UserError(f"{path}: the ledger of {store.uri} cannot be read: {error}") from error
    except ArchsearchError as error:
        raise UserError(f"{path}: {store.uri}: {error}") from error
    if table.experiment is None:
        raise UserError(
            f"{path}: {store.uri} holds no run of archsearch (no ledger/ with records is there); give the folder or "
            "URI of a run: on a laptop the folder that `archsearch run` names, in a cluster .status.storageUri"
        )
    if table.accepted is None:
        raise UserError(
            f"{path}: the run in {store.uri} has no results: it ended, or is, before its search space was known"
        )
    accepted = table.accepted
    reuse = accepted.reuse if len(versions) == 1 else ""  # which results are of which version is not recorded
    return EarlierRun(path, store.uri, table.experiment.spec, accepted.space, accepted.identity, reuse, table)


def _noting(versions: set[str], records: Iterator[JsonObject]) -> Iterator[JsonObject]:
    """The records, with the versions of archsearch that wrote them."""
    for record in records:
        if record.get("type") == "opened":
            versions.add(str(record.get("version")))
        yield record


def check_spaces(runs: Sequence[EarlierRun], space: SearchSpace) -> None:
    """Refuse earlier runs of other spaces.

    Raises:
        UserError: names both digests.
    """
    for run in runs:
        if run.space != space.digest:
            raise UserError(
                f"{run.path}: the run in {run.uri} searched another space (digest {run.space[:12]}, this one has "
                f"{space.digest[:12]}): the model or its arguments differ; name runs of the same space"
            )


def absolute(uri: str, key: str) -> str:
    """A key of the run at `uri` as one that means the same in any run."""
    return key if not key or is_foreign(key) else f"{uri}/{key}"


def is_foreign(key: str) -> bool:
    """Whether a key names something in another run's folder."""
    return bool(split_key(key)[0])


def weights_exist(open_: Opener, key: str) -> bool:
    """Whether a checkpoint of another run is still there. Does not verify it."""
    folder, name = split_key(key)
    try:
        return open_(folder).exists(f"{name}/{MANIFEST}")
    except (StoreError, UserError):
        return False
