"""Random architectures of about the winner's size: what a search has to beat under the same training."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator

from archsearch.protocol import TrialKind, TrialState
from archsearch.space import Architecture, Rng, SearchSpace
from archsearch.space.errors import SpaceError
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.driver.run import trial_seed

logger = logging.getLogger(__name__)

DRAWS = 50
BATCH = 10
TOLERANCE = 0.1  # of the winner's parameters
_REPEATS = 20  # draws that may be known already, before the space counts as used up

Profile = Callable[[list[Row]], Awaitable[None]]


async def equal_sized(
    space: SearchSpace, best: Row, count: int, *, seed: int, taken: Collection[str], profile: Profile
) -> list[Architecture]:
    """Draw architectures whose parameters are within `TOLERANCE` of `best`'s.

    Of at most `DRAWS`; where too few of them are so near, the nearest. The same for the same arguments.

    Args:
        count: how many.
        seed: the experiment's.
        taken: hashes of architectures that are not wanted.
        profile: has workers do such trials, and returns when all are finished.

    Returns:
        As many as were found: fewer where the space is small, none where parameters cannot be counted.
    """
    wanted = best.metrics.get("params")
    if wanted is None:
        row = _profile_row(best.architecture or {}, best.hash, seed)
        await profile([row])
        wanted = row.metrics.get("params")
    if wanted is None:
        logger.warning("no random controls are trained: the parameters of trial %s cannot be counted", best.number)
        return []
    found: list[tuple[float, Architecture]] = []
    near: list[Architecture] = []
    draws = _distinct(space, Rng(seed).fork("controls"), set(taken) | {best.hash})
    while (
        len(near) < count and len(found) < DRAWS and (batch := [a for a, _ in zip(draws, range(BATCH), strict=False)])
    ):
        rows = [_profile_row(each.to_json(), space.hash(each), seed) for each in batch]
        await profile(rows)
        for architecture, row in zip(batch, rows, strict=True):
            params = row.metrics.get("params") if row.state is TrialState.SUCCEEDED else None
            found.append((float("inf") if params is None else abs(params - wanted), architecture))
            if params is not None and abs(params - wanted) <= TOLERANCE * wanted:
                near.append(architecture)
    nearest = [each for distance, each in sorted(found, key=lambda pair: pair[0]) if distance < float("inf")]
    return (near + [each for each in nearest if each not in near])[:count]


def _profile_row(architecture: dict[str, object], architecture_hash: str, seed: int) -> Row:
    return Row(
        None,
        TrialKind.PROFILE,
        architecture,
        architecture_hash,
        {"metrics": ["params"]},
        seed=trial_seed(seed, architecture_hash, 0),
    )


def _distinct(space: SearchSpace, rng: Rng, known: set[str]) -> Iterator[Architecture]:
    repeats = 0
    while repeats < _REPEATS:
        try:
            drawn = space.sample(rng)
        except SpaceError:
            return
        hashed = space.hash(drawn)
        repeats += 1
        if hashed not in known:
            known.add(hashed)
            repeats = 0
            yield drawn
