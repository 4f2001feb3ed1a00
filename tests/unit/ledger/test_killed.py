"""Drivers killed with SIGKILL at any moment, two at a time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from archsearch.store import Store
from archsearch_strategies.ledger import read_ledger

DRIVER = """
import asyncio, itertools, sys
from archsearch.errors import Fenced
from archsearch.store import open_store
from archsearch_strategies.ledger import Ledger

async def main():
    uri, endpoint, name = sys.argv[1:]
    ledger = Ledger.open(open_store(uri, endpoint=endpoint), name)
    print("open", flush=True)
    for number in itertools.count():
        await ledger.append({"epoch": ledger.epoch, "number": number})
        print(ledger.epoch, number, flush=True)

try:
    asyncio.run(main())
except Fenced:
    print("fenced", flush=True)
"""


class Driver:
    def __init__(self, store: Store, name: str, environment: dict[str, str]) -> None:
        endpoint = environment.get("AWS_ENDPOINT_URL_S3", "")
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, store.uri, endpoint, name],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.acknowledged: list[tuple[int, int]] = []
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.goal = 10**9
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "open\n":
                self.opened.set()
            elif line != "fenced\n":
                epoch, number = map(int, line.split())
                self.acknowledged.append((epoch, number))
                if number >= self.goal:
                    self.reached.set()
        self.opened.set()
        self.reached.set()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._thread.join(60)


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_nothing_acknowledged_is_lost_or_doubled(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        store, environment = server.store(tmp_path.name), server.environment
    else:
        from archsearch.store import open_store

        store, environment = open_store(str(tmp_path / "run")), {}
    chance = random.Random(7)
    drivers: list[Driver] = []
    running: list[Driver] = []
    try:
        for turn in range(4 if kind == "s3" else 6):
            driver = Driver(store, f"driver-{turn}", environment)
            drivers.append(driver)
            running.append(driver)
            assert driver.opened.wait(120)
            driver.goal = chance.randrange(1, 60)
            assert driver.reached.wait(120)
            if len(running) == 2 or chance.random() < 0.4:
                running.pop(chance.randrange(len(running))).kill()
    finally:
        for driver in running:
            driver.kill()
    records = [(entry["epoch"], entry["number"]) for entry in read_ledger(store)]
    assert records == sorted(records), "an epoch's records stand after a later one's"
    assert len(set(records)) == len(records)
    for epoch in {epoch for epoch, _ in records}:
        numbers = [number for of, number in records if of == epoch]
        assert numbers == list(range(len(numbers)))
    acknowledged = {pair for driver in drivers for pair in driver.acknowledged}
    assert len(acknowledged) > 4
    assert acknowledged <= set(records), json.dumps(sorted(acknowledged - set(records)))
