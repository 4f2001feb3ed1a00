"""What the one-shot strategies find on small real data: each searches, its architecture is trained again, and so are
random ones of about the same size, with the same budget.

    python benchmarks/oneshot_study.py --out study    # everything: an hour or two; interrupted, the same goes on
    python benchmarks/oneshot_study.py --out study --only gdas enas --seeds 1 --jobs 2
    python benchmarks/oneshot_study.py --out study --table        # what is there, as docs/oneshot.md has it
    python benchmarks/oneshot_study.py --out study --group cells --lookup nasbench201_cifar10.npz

Group `own`: the manifests of examples/oneshot, each strategy on a space of its own kind. Group `cells`: all of them on
NAS-Bench-201's cell and Fashion-MNIST; --lookup says how good the cells are on CIFAR-10 by the benchmark's table.
Strategies whose results are trained alike (the same space, data and options) share their controls: POOL random
architectures a seed, trained once; a result stands beside the NEAREST of all seeds' in parameters.
Group `ranking`: how well SPOS's inherited weights rank cells: Kendall's tau against training each by itself, and with
--lookup against the benchmark's table.
A run is `archsearch run`, which goes on where it was interrupted; a finished one leaves DIR/GROUP-CASE-SEED.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "oneshot"
OWN = ("darts", "pc-darts", "pdarts", "gdas", "cdarts", "enas", "spos", "proxylessnas", "textnas")
ARCHSEARCH = str(Path(sys.executable).with_name("archsearch"))
EDGES = ("edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3")
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")

_COMMON = {"batchSize": 64, "learningRate": 0.05}
_DIFFERENTIABLE = {**_COMMON, "epochs": 25, "architectureLearningRate": 0.01}
CELLS: dict[str, dict[str, Any]] = {
    # A controller that learns fast takes what shared weights learn first: skip connections.
    "enas": {
        "batchSize": 32,
        "learningRate": 0.05,
        "epochs": 40,
        "firstCycle": 40,
        "architectureShare": 0.1,
        "controllerSteps": 10,
        "controllerSamples": 8,
        "samples": 30,
    },
    # Each path trains a fifth of the weights at a time: they want several times the epochs of the others.
    "spos": {
        **_COMMON,
        "epochs": 150,
        "population": 20,
        "generations": 3,
        "parents": 5,
        "crossover": 10,
        "mutation": 10,
    },
    "gdas": _DIFFERENTIABLE,
    "pc-darts": {**_DIFFERENTIABLE, "warmupEpochs": 5},
    "proxylessnas": {
        "batchSize": 32,
        "learningRate": 0.05,
        "epochs": 30,
        "warmupEpochs": 8,
        "architectureShare": 0.25,
        "architectureEvery": 1,
        "architectureLearningRate": 0.02,
    },
    "cdarts": {**_DIFFERENTIABLE, "warmupEpochs": 3},
    "darts": {},
    "darts-pt": {"selection": "perturbation", "tuneEpochs": 1},
}
COLLAPSE = EXAMPLES / "darts-collapse.yaml"  # for these two, with the options above laid over it
RANKED = 20
RANKING = {
    "spos": CELLS["spos"] | {"population": RANKED, "generations": 1, "crossover": 0, "mutation": 0, "parents": 4}
}
POOL, NEAREST = 6, 3
# Cells differ by a few percent, which a thousand images cannot tell apart.
MORE = {("ranking", "spos"): {"validationSize": 5000, "epochs": 12}, ("cells", "spos"): {"validationSize": 5000}}
COUNTED = [{"metric": "params", "min": "1"}]  # a bound on parameters has them counted
DATA = {"dataset": "fashion-mnist", "trainSize": 2000, "validationSize": 1000, "epochs": 6, **_COMMON}


@dataclass(frozen=True)
class Case:
    """One search to be made."""

    group: str
    name: str
    seed: int

    @property
    def title(self) -> str:
        return f"{self.group}-{self.name}-{self.seed}"

    def manifest(self) -> dict[str, Any]:
        """As it is given to `archsearch run`."""
        if self.group == "control":
            return self._controls()
        document: dict[str, Any]
        collapse = self.group == "cells" and self.name.startswith("darts")
        if self.group == "own" or collapse:
            path = COLLAPSE if collapse else EXAMPLES / f"{self.name}.yaml"
            document = yaml.safe_load(path.read_text())
            if collapse:
                document["spec"]["strategy"]["config"] |= CELLS[self.name]
        else:
            config = {"cells": CELLS, "ranking": RANKING}[self.group][self.name]
            document = {
                "apiVersion": "archsearch.dev/v1alpha1",
                "kind": "NASExperiment",
                "metadata": {"name": f"{self.group}-{self.name}"},
                "spec": {
                    "objectives": [{"metric": "accuracy", "goal": "Maximize"}],
                    "modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 8, "cells": 1}}},
                    "strategy": {"name": self.name.removesuffix("-pt"), "config": config},
                    "evaluator": {"name": "classification", "config": DATA | MORE.get((self.group, self.name), {})},
                    "retrain": {},
                    "budget": {"maxTrials": 100},
                },
            }
        spec = document["spec"]
        spec["retrain"] = {**spec.get("retrain", {}), "topK": RANKED if self.group == "ranking" else 1, "controls": 0}
        spec["constraints"] = [each for each in spec.get("constraints", []) if each["metric"] != "params"] + COUNTED
        return self._on_one_thread(document)

    def _controls(self) -> dict[str, Any]:
        """Random architectures, trained as those are that the searches named like this one find."""
        spec = next(case.manifest()["spec"] for case in searches_of_all() if case.trained_as == self.name)
        kept = {key: spec[key] for key in ("objectives", "modelSpace", "evaluator")}
        document: dict[str, Any] = {
            "apiVersion": "archsearch.dev/v1alpha1",
            "kind": "NASExperiment",
            "metadata": {"name": "controls"},
            "spec": {
                **kept,
                "constraints": COUNTED,
                "strategy": {"name": "random"},
                "budget": {"maxTrials": POOL},
                "retrain": {"topK": 0},
            },
        }
        document["spec"]["evaluator"]["config"] |= spec["retrain"].get("config", {})
        return self._on_one_thread(document)

    def _on_one_thread(self, document: dict[str, Any]) -> dict[str, Any]:
        document["spec"] |= {"seed": self.seed, "parallelTrials": 1, "trials": {"threads": 1}}
        return document

    @property
    def trained_as(self) -> str:
        """Equal for cases whose results are trained in the same space, on the same data, with the same options."""
        spec = self.manifest()["spec"]
        told = [spec["modelSpace"], spec["evaluator"], spec["retrain"].get("config", {})]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{spec['modelSpace']['zoo']['name']}-{digest[:6]}"


def searches_of_all() -> list[Case]:
    """One case, of seed 0, of every search there is."""
    names = {"own": OWN, "cells": tuple(CELLS), "ranking": tuple(RANKING)}
    return [Case(group, name, 0) for group, each in names.items() for name in each]


def cases(group: str, only: Iterable[str], seeds: int) -> list[Case]:
    """The searches that are wanted and, behind those of each seed, what they are compared with."""
    chosen = [
        case for case in searches_of_all() if group in (case.group, "all") and (not only or case.name in set(only))
    ]
    pools = sorted({case.trained_as for case in chosen if case.group != "ranking"})
    found = []
    for seed in range(seeds):
        found += [Case(case.group, case.name, seed) for case in chosen]
        found += [Case("control", pool, seed) for pool in pools]
    return found


class Searches:
    """The runs that are under way. Told to stop, they give way to the next call, and no others begin."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def stop(self, *_: object) -> None:
        self.stopped = True
        for process in list(self._running):
            process.terminate()

    def call(self, command: list[str]) -> tuple[int, str]:
        """Exit code and stderr; -1 where none begins any more."""
        if self.stopped:
            return -1, ""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            self._running.add(process)
            _, errors = process.communicate()
            self._running.discard(process)
        return process.returncode, errors


def run(case: Case, out: Path, searches: Searches) -> None:
    """Search, or go on; the finished run's summary is written last."""
    result = out / f"{case.title}.json"
    if result.exists():
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=out) as file:
        json.dump(case.manifest(), file)
        file.flush()
        command = [ARCHSEARCH, "run", file.name, "--storage", str(out / case.title)]
        code, errors = searches.call(command)
    summary = out / case.title / "summary.json"
    if searches.stopped:
        return
    if code or not summary.exists():
        print(f"{case.title}: exit {code}\n{errors[-2000:]}", flush=True)
        return
    found = json.loads(summary.read_text())
    kept = {key: found.get(key) for key in ("state", "message", "retrained", "best", "alarms")}
    if case.group != "control":
        kept |= {"trainedAs": case.trained_as, "params": parameters(out / case.title)}
    partial = result.with_suffix(".tmp")
    partial.write_text(json.dumps(kept | {"seconds": found.get("elapsedSeconds"), "trials": curve(out / case.title)}))
    partial.replace(result)
    print(f"{case.title}: {score(kept['retrained'] or kept['best']):.4f}", flush=True)


def parameters(folder: Path) -> int:
    """Of the network that a run found. The inherited trial's own may be those of a smaller one (`modelArgs`)."""
    import archsearch

    return sum(each.numel() for each in archsearch.load(folder).parameters())


def curve(folder: Path) -> list[dict[str, Any]]:
    """Inherited trials with their metrics, and the supernets' epochs without the architecture weights."""
    command = [ARCHSEARCH, "trials", str(folder), "-o", "json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    keys = ("number", "kind", "state", "metrics", "architecture", "seconds")
    return [{key: row.get(key) for key in keys} for row in rows]


def score(rows: list[dict[str, Any]]) -> float:
    return max((row["metrics"]["accuracy"] for row in rows or [] if row["metrics"]), default=float("nan"))


def table(out: Path, lookup: str) -> None:
    """Markdown, of all results that are there."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*-*-*.json")):
        group, rest = path.stem.split("-", 1)
        found.setdefault((group, rest.rsplit("-", 1)[0]), []).append(json.loads(path.read_text()))
    pools = {name: random_ones(runs) for (group, name), runs in found.items() if group == "control"}
    print(
        "| strategy | seeds | found, trained again | random of its size | all random | seconds of a search | alarms |"
    )
    print("|---|---|---|---|---|---|---|")
    for (group, name), runs in found.items():
        if group not in ("own", "cells"):
            continue
        pool = pools.get(runs[0]["trainedAs"], [])
        own, near = [score(each["retrained"]) for each in runs], [statistics.mean(alike(each, pool)) for each in runs]
        seconds = statistics.mean(each["seconds"] for each in runs)
        alarms = sum(bool(each["alarms"]) for each in runs)
        everything = spread([accuracy for _, accuracy in pool])
        print(
            f"| {group}: {name} | {len(runs)} | {spread(own)} | {spread(near)} | {everything} | {seconds:.0f} "
            f"| {alarms} |"
        )
    rows: dict[tuple[int, ...], float] = {}
    if lookup:
        with np.load(lookup) as arrays:
            rows = {tuple(ops): float(v) for ops, v in zip(arrays["ops"].tolist(), arrays["test200"], strict=True)}
    for (group, name), runs in found.items():
        if group == "ranking":
            taus = ", ".join(f"{tau(inherited(each), alone(each)):.2f}" for each in runs)
            print(f"\n{name}: Kendall's tau of {RANKED} cells, inherited against trained alone, a seed each: {taus}")
            if rows:
                for what, of in (("inherited", inherited), ("trained alone", alone)):
                    taus = ", ".join(f"{tau(of(each), looked_up(of(each), rows)):.2f}" for each in runs)
                    print(f"{name}: {what} against the benchmark's CIFAR-10 test accuracy: {taus}")
    if rows:
        print("\n| strategy | cells' CIFAR-10 test accuracy (%) | mean |\n|---|---|---|")
        print(f"| all cells | | {statistics.mean(rows.values()):.2f} |")
        for (group, name), runs in found.items():
            if group == "cells":
                values = [rows[ops_of(each["best"][0]["architecture"])] for each in runs]
                print(f"| {name} | {', '.join(f'{value:.2f}' for value in values)} | {statistics.mean(values):.2f} |")


def random_ones(runs: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(parameters, accuracy) of the random architectures of all seeds."""
    trials = [row["metrics"] for each in runs for row in each["trials"] if row["state"] == "succeeded"]
    return [(metrics["params"], metrics["accuracy"]) for metrics in trials]


def alike(result: dict[str, Any], pool: list[tuple[float, float]]) -> list[float]:
    """Accuracies of the random architectures that come nearest in parameters to the one that was found."""
    size = result["params"]
    return [accuracy for _, accuracy in sorted(pool, key=lambda each: abs(each[0] - size))[:NEAREST]] or [float("nan")]


Accuracies = dict[str, float]
"""By the architecture's JSON."""


def alone(result: dict[str, Any]) -> Accuracies:
    """Of the architectures that were trained again."""
    return {
        json.dumps(row["architecture"]): row["metrics"]["accuracy"] for row in result["retrained"] if row["metrics"]
    }


def inherited(result: dict[str, Any]) -> Accuracies:
    """Of all that were judged on shared weights."""
    return {
        json.dumps(row["architecture"]): row["metrics"]["accuracy"]
        for row in result["trials"]
        if row["kind"] == "inherit" and row["state"] == "succeeded"
    }


def looked_up(keys: Iterable[str], rows: dict[tuple[int, ...], float]) -> Accuracies:
    """The benchmark's own."""
    return {key: rows[ops_of(json.loads(key))] for key in keys}


def tau(one: Accuracies, other: Accuracies) -> float:
    """Kendall's tau-a over the architectures that both have."""
    both = [(one[key], other[key]) for key in one if key in other]
    signs = [np.sign((a - c) * (b - d)) for i, (a, b) in enumerate(both) for c, d in both[:i]]
    return float(np.mean(signs)) if signs else float("nan")


def ops_of(architecture: dict[str, str]) -> tuple[int, ...]:
    return tuple(OPERATIONS.index(architecture[edge]) for edge in EDGES)


def spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--group", choices=("own", "cells", "ranking", "all"), default="all")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--table", action="store_true", help="only print the tables of what is there")
    parser.add_argument("--lookup", default="", help="nasbench201_cifar10.npz")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        searches = Searches()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, searches.stop)
        with ThreadPoolExecutor(options.jobs) as pool:
            wanted = cases(options.group, options.only, options.seeds)
            list(pool.map(lambda case: run(case, options.out, searches), wanted))
    table(options.out, options.lookup)


if __name__ == "__main__":
    main()
