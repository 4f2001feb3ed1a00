"""Trials per second, full path to the durable result: forked from a warm worker against one process a trial.

    python benchmarks/trials.py [--trials 300] [--parallel 2] [--per-process 6] [--s3]

A trial is 50 steps of a small MLP. The rate is taken between the first and the last result in the ledger, so that the
start of the first worker is not in it; with one process a trial each start is. `--s3` does the same against a
SeaweedFS of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archsearch.spec import NASExperiment
from archsearch.store import open_store
from archsearch_strategies.driver.local import run_local
from archsearch_strategies.ledger import read_ledger

HERE = Path(__file__).resolve().parent


def experiment(uri: str, trials: int, parallel: int, per_job: int | str, endpoint: str) -> NASExperiment:
    spec = {
        "objectives": [{"metric": "loss", "goal": "Minimize"}],
        "modelSpace": {"python": {"class": "mlp_trial:Net", "inputShape": [16]}},
        "strategy": {"name": "random"},
        "evaluator": {"python": "mlp_trial:fit"},
        "budget": {"maxTrials": trials},
        "parallelTrials": parallel,
        "trials": {"perJob": per_job, "threads": 1},
        "storage": {"uri": uri, "endpoint": endpoint},
    }
    return NASExperiment.model_validate({"metadata": {"name": "bench"}, "spec": spec})


def rate(uri: str, trials: int, parallel: int, per_job: int | str, storage: dict[str, Any]) -> float:
    """Finished trials per second of one run."""
    wanted = experiment(uri, trials, parallel, per_job, storage.get("endpoint", ""))
    summary = asyncio.run(run_local(wanted, uri=uri, code_dir=HERE, credentials=storage.get("credentials")))
    assert summary.trials["succeeded"] == trials, summary.message
    times = sorted(record["time"] for record in read_ledger(open_store(uri, **storage)) if record["type"] == "result")
    return (len(times) - 1) / (times[-1] - times[0])


@contextmanager
def bucket() -> Iterator[tuple[str, dict[str, Any]]]:
    """A SeaweedFS with a bucket: a URI in it, and how to open it."""
    sys.path.insert(0, str(HERE.parent))
    from tests.support.seaweedfs import S3Server

    with tempfile.TemporaryDirectory(prefix="weed-", ignore_cleanup_errors=True) as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            yield server.uri("bench"), {"endpoint": server.endpoint, "credentials": server.credentials}
        finally:
            server.stop()


def measure(label: str, uri: str, storage: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    forked = rate(f"{uri}/forked", options.trials, options.parallel, "Auto", storage)
    processes = rate(f"{uri}/process", options.per_process, options.parallel, 1, storage)
    return {
        "store": label,
        "forkedPerSecond": round(forked, 2),
        "processPerSecond": round(processes, 3),
        "ratio": round(forked / processes, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--per-process", type=int, default=6, help="trials of the run with one process a trial")
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure("directory", folder, {}, options)), flush=True)
    if options.s3:
        with bucket() as (uri, storage):
            print(json.dumps(measure("s3", uri, storage, options)), flush=True)


if __name__ == "__main__":
    main()
