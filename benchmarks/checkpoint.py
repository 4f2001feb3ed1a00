"""What checkpoints cost a training: 64 MB every few seconds to a SeaweedFS S3 server of its own, the whole way.

    python benchmarks/checkpoint.py [--interval 10] [--seconds 40] [--windows 3] [--threads 1]

One trial under a driver and a worker trains in windows by turns without and with checkpoints. Printed: how long the
trainer is held by one (median, 95th percentile, CPU time), beside writing and hashing it in the caller, and beside one
thread's copy of as many bytes in one piece, which says what the machine's memory does just now; the time that training
loses by one, all in all, and that over 30 s; and the CPU time by one of the child's thread (writes and hashes), the
worker's supervisor (uploads) and the server. Nothing heavy should run beside it: the load is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from archsearch.spec import NASExperiment
from archsearch_strategies.driver.local import run_local

HERE = Path(__file__).resolve().parent


def experiment(uri: str, endpoint: str, server: int, options: argparse.Namespace) -> NASExperiment:
    config = {
        "interval": options.interval,
        "seconds": options.seconds,
        "windows": options.windows,
        "server": server,
    }
    spec = {
        "objectives": [{"metric": "stepMs", "goal": "Minimize"}],
        "modelSpace": {"python": {"class": "checkpoint_trial:Space", "inputShape": [4]}},
        "strategy": {"name": "random"},
        "evaluator": {"python": "checkpoint_trial:fit", "config": config},
        "budget": {"maxTrials": 1},
        "trials": {"threads": options.threads},
        "retrain": {"topK": 0},
        "storage": {"uri": uri, "endpoint": endpoint},
    }
    return NASExperiment.model_validate({"metadata": {"name": "bench"}, "spec": spec})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two checkpoints")
    parser.add_argument("--seconds", type=float, default=40.0, help="of a window")
    parser.add_argument("--windows", type=int, default=3, help="of each kind")
    parser.add_argument("--threads", type=int, default=1, help="of the training")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    from tests.support.seaweedfs import S3Server

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="weed-", ignore_cleanup_errors=True) as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            assert server.process is not None
            wanted = experiment(server.uri("bench"), server.endpoint, server.process.pid, options)
            summary = asyncio.run(
                run_local(wanted, uri=server.uri("bench"), code_dir=HERE, credentials=server.credentials)
            )
        finally:
            server.stop()
    assert summary.trials["succeeded"] == 1, summary.message
    found = {name: round(value, 4) for name, value in summary.best[0].metrics.items()}
    print(json.dumps({"cpus": os.cpu_count(), "loadBefore": round(load, 2), **found}))


if __name__ == "__main__":
    main()
