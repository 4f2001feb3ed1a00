"""Finding out whether a store really lets only one of several writers create an object."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from archsearch.errors import StoreError
from archsearch.store import Store
from archsearch_strategies.ledger.segment import FOLDER

logger = logging.getLogger(__name__)

RACERS = 16
KEYS = 2
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0


def probe(store: Store) -> None:
    """Let 16 writers race for each of two keys. In turn they would prove little: some stores check, then write.

    A store that fails is asked again twice: SeaweedFS has been seen to let two writers win in its first second.

    Raises:
        StoreError: each time more than one writer won, or none, or the object was not the winner's.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        counts = _race(store)
        if all(count == 1 for count in counts):
            return
        logger.warning("of %d racing writers %s created the same object in %s", RACERS, counts, store.uri)
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_SECONDS)
    raise StoreError(
        f"the store {store.uri} is unsafe for a ledger: {max(counts)} of {RACERS} writers at once were told that they "
        "created the same object. Two drivers could lose each other's results. Use a store that honours "
        "If-None-Match under concurrency, such as AWS S3, MinIO or SeaweedFS 4.48 or later"
    )


def _race(store: Store) -> list[int]:
    """How many writers won each key; 0 also where the object is not the one winner's."""
    keys = [f"{FOLDER}/probe-{secrets.token_hex(8)}" for _ in range(KEYS)]
    barrier = threading.Barrier(RACERS * KEYS)

    def run(racer: int) -> bool:
        barrier.wait()
        return store.create(keys[racer % KEYS], str(racer).encode())

    try:
        with ThreadPoolExecutor(RACERS * KEYS, thread_name_prefix="ledger-probe") as pool:
            won = list(pool.map(run, range(RACERS * KEYS)))
        winners = [[racer for racer, first in enumerate(won) if first and racer % KEYS == key] for key in range(KEYS)]
        return [
            0 if len(who) == 1 and store.get(key) != str(who[0]).encode() else len(who)
            for key, who in zip(keys, winners, strict=True)
        ]
    finally:
        store.delete(keys)
