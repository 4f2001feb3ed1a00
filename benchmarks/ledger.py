"""The ledger's append rate and the time that a replay takes, in a directory and on a real S3 server (SeaweedFS).

    python benchmarks/ledger.py [--trials 100000] [--seconds 3] [--only directory|s3]

Records are as a driver writes them: a submission, a lease and a result for each trial. Ends with 1 where a replay of
100,000 trials took more than 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from archsearch.store import Store, open_store
from archsearch_strategies.ledger import Ledger

TARGET_SECONDS = 10.0
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CHANCE = random.Random(0)


def trial_records(number: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a driver writes for one trial; about 900 bytes in all."""
    architecture = {f"edge_{i}_{j}": CHANCE.choice(OPERATIONS) for j in range(1, 4) for i in range(j)}
    lease = f"{CHANCE.getrandbits(128):032x}"
    fence = {"epoch": 1, "counter": number}
    resources = {
        "wall_seconds": CHANCE.random() * 9,
        "cpu_seconds": CHANCE.random() * 9,
        "peak_memory_bytes": 183_500_800,
    }
    metrics = {"accuracy": CHANCE.random(), "loss": CHANCE.random(), "params": CHANCE.randrange(10**6)}
    stamp = 1_790_000_000.25 + number
    return (
        {
            "type": "submitted",
            "number": number,
            "kind": "evaluate",
            "architecture": architecture,
            "seed": number,
            "time": stamp,
        },
        {
            "type": "leased",
            "number": number,
            "lease": lease,
            "fence": fence,
            "worker": "digits-t1-3-x7k2p",
            "time": stamp,
        },
        {
            "type": "result",
            "number": number,
            "attempt": 1,
            "state": "succeeded",
            "metrics": metrics,
            "resources": {**resources, "gpu_seconds": 0.0, "threads": 1, "device": "cpu"},
            "artifacts": {"log": f"trials/{number}/log.txt", "model": f"trials/{number}/model"},
            "time": stamp,
        },
    )


async def append_alone(store: Store, seconds: float) -> tuple[float, float]:
    """One result after the other, each waited for: commits a second, and the mean wait in milliseconds."""
    ledger = await asyncio.to_thread(Ledger.open, store, "benchmark")
    started, number = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        await ledger.append(trial_records(number)[2])
        number += 1
    elapsed = time.perf_counter() - started
    stats = ledger.stats
    await asyncio.to_thread(ledger.close)
    return stats.commits / elapsed, 1000 * stats.commit_seconds / stats.commits


async def append_many(store: Store, trials: int) -> tuple[float, float, float]:
    """All trials, 1000 results under way at a time: records, commits and MB a second."""
    ledger = await asyncio.to_thread(Ledger.open, store, "benchmark")
    started = time.perf_counter()
    for first in range(0, trials, 1000):
        futures = [
            ledger.append(record)
            for number in range(first, min(first + 1000, trials))
            for record in trial_records(number)
        ]
        await asyncio.gather(*futures)
    elapsed = time.perf_counter() - started
    stats = ledger.stats
    await asyncio.to_thread(ledger.close, 60.0)
    return stats.records / elapsed, stats.commits / elapsed, stats.bytes / elapsed / 1e6


async def append_slowly(store: Store, trials: int) -> None:
    """Many small commits, so that merging has work."""
    ledger = await asyncio.to_thread(Ledger.open, store, "benchmark")
    for number in range(trials):
        await ledger.append(*trial_records(number))
    await asyncio.to_thread(ledger.close, 60.0)


def replay(store: Store) -> tuple[float, int, int]:
    """Seconds that opening the ledger takes, records, and objects that it consists of."""
    objects = len(store.list("ledger/"))
    started = time.perf_counter()
    ledger = Ledger.open(store, "benchmark")
    elapsed = time.perf_counter() - started
    ledger.close()
    return elapsed, len(ledger.records), objects


def measure(name: str, store: Store, trials: int, seconds: float) -> bool:
    rate, wait = asyncio.run(append_alone(store.child("alone"), seconds))
    print(f"{name}: one writer that waits: {rate:.0f} commits/s, {wait:.1f} ms each", flush=True)
    asyncio.run(append_slowly(store.child("slow"), 1000))
    elapsed, records, objects = replay(store.child("slow"))
    print(f"{name}: 1000 commits are {objects} objects, {records} records replayed in {elapsed:.2f} s", flush=True)
    rate, commits, megabytes = asyncio.run(append_many(store.child("many"), trials))
    print(f"{name}: many at once: {rate:.0f} records/s in {commits:.0f} commits/s, {megabytes:.1f} MB/s", flush=True)
    elapsed, records, objects = replay(store.child("many"))
    print(f"{name}: replay of {trials} trials ({records} records, {objects} objects): {elapsed:.2f} s", flush=True)
    return elapsed <= TARGET_SECONDS


@contextmanager
def stores(only: str | None) -> Iterator[dict[str, Store]]:
    from support.seaweedfs import S3Server

    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        found: dict[str, Store] = {}
        server = S3Server(Path(folder) / "weed")
        try:
            if only != "s3":
                found["directory"] = open_store(f"{folder}/runs")
            if only != "directory":
                server.start()
                found["SeaweedFS"] = server.store(uuid.uuid4().hex)
            yield found
        finally:
            server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", choices=["directory", "s3"])
    arguments = parser.parse_args()
    with stores(arguments.only) as found:
        passed = [measure(name, store, arguments.trials, arguments.seconds) for name, store in found.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
