"""Finding out whether a store really lets only one of several writers create an object."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from archsearch.errors import StoreError
from archsearch.store import Store
from archsearch_strategies.ledger.segment import FOLDER

RACERS = 16
ROUNDS = 3


def probe(store: Store) -> None:
    """Let 16 writers race for a key, three times. In turn they would prove little: some stores check, then write.

    Raises:
        StoreError: not exactly one writer won, or the object is not the winner's.
    """
    with ThreadPoolExecutor(RACERS, thread_name_prefix="ledger-probe") as pool:
        for _ in range(ROUNDS):
            _race(store, pool, f"{FOLDER}/probe-{secrets.token_hex(8)}")


def _race(store: Store, pool: ThreadPoolExecutor, key: str) -> None:
    barrier = threading.Barrier(RACERS)

    def run(racer: int) -> bool:
        barrier.wait()
        return store.create(key, str(racer).encode())

    try:
        won = list(pool.map(run, range(RACERS)))
        kept = store.get(key)
    finally:
        store.delete([key])
    winners = [racer for racer, first in enumerate(won) if first]
    if len(winners) != 1 or kept != str(winners[0]).encode():
        raise StoreError(
            f"the store {store.uri} is unsafe for a ledger: {len(winners)} of {RACERS} writers at once were told that "
            "they created the same object. Two drivers could lose each other's results. Use a store that honours "
            "If-None-Match under concurrency, such as AWS S3, MinIO or SeaweedFS 4.48 or later"
        )
