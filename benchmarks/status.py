"""Size of the custom resource after many trials: from a synthetic ledger, the way the driver makes it.

python benchmarks/status.py [--trials 100000] [--choices 60]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from archsearch.protocol import FailureClass, Resources, TrialKind, TrialState
from archsearch.spec import NASExperiment, Objective
from archsearch.spec.base import JsonObject
from archsearch.spec.status import ExperimentStatus, Verdict, Waiting
from archsearch_strategies.driver import records as r
from archsearch_strategies.driver.status import search_status
from archsearch_strategies.driver.trials import TrialTable

LIMIT_BYTES = 64 * 1024


def ledger(trials: int, choices: int) -> Iterator[JsonObject]:
    """Submissions, leases and results; every 50th attempt is preempted, every 100th trial fails."""
    for number in range(1, trials + 1):
        architecture = {f"choice_{i}": f"candidate_{(number * 31 + i) % 7}" for i in range(choices)}
        yield r.Submitted(
            number=number, kind=TrialKind.EVALUATE, architecture=architecture, hash=f"{number:064x}"
        ).to_json()
        yield r.Leased(
            number=number, attempt=1, lease=f"{number:064d}", epoch=1, counter=number, worker="w", job="j", time=number
        ).to_json()
        failed = number % 100 == 0
        metrics = {f"metric_{i}": ((number * 7919) % 100_003) / 100_003 + i for i in range(24)}
        yield r.Result(
            number=number,
            attempt=1,
            state=TrialState.FAILED if failed else TrialState.SUCCEEDED,
            metrics={} if failed else metrics | {"accuracy": ((number * 104_729) % 99_991) / 99_991},
            failure=FailureClass.USER_ERROR if failed else None,
            message="Traceback …" * 100 if failed else "",
            resources=Resources(gpu_seconds=1.5),
            time=number,
        ).to_json()
        yield r.Handed(number=number).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--choices", type=int, default=60, help="choices of each architecture")
    options = parser.parse_args()
    objectives = [Objective(metric="accuracy"), Objective(metric="metric_0", goal="Minimize")]
    table = TrialTable(objectives)
    started = time.perf_counter()
    table.replay(ledger(options.trials, options.choices))
    replayed = time.perf_counter() - started
    started = time.perf_counter()
    search = search_status(
        table,
        max_trials=options.trials,
        verdict=Verdict(accepted=True, state="Running", message="m" * 4096),
        waiting=Waiting(reason="Unschedulable", message="w" * 4096),
        now=0.0,
    )
    status_seconds = time.perf_counter() - started
    experiment = NASExperiment.model_validate(
        {
            "metadata": {"name": "synthetic"},
            "spec": {
                "objectives": [objective.to_json() for objective in objectives],
                "modelSpace": {"zoo": {"name": "nasbench201"}},
                "strategy": {"name": "random"},
                "evaluator": {"name": "classification"},
            },
        }
    )
    resource = experiment.to_json() | {"status": ExperimentStatus(search=search).to_json()}
    size = len(json.dumps(resource).encode())
    figures = {
        "trials": options.trials,
        "resourceBytes": size,
        "limitBytes": LIMIT_BYTES,
        "replaySeconds": round(replayed, 2),
        "statusSeconds": round(status_seconds, 5),
    }
    print(json.dumps(figures))
    raise SystemExit(size > LIMIT_BYTES)


if __name__ == "__main__":
    main()
