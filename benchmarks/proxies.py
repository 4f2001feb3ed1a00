"""Zero-cost proxies on networks built here against a table's own: rank correlation with the test accuracy.

    python benchmarks/proxies.py TABLES                    # 500 cells; goes on where it was interrupted
    python benchmarks/proxies.py TABLES --cells 50 --batch 16

TABLES is a folder with `nasbench201_cifar10.npz` and `nasbench201_proxies_cifar10.npz`. Networks are the benchmark's
(16 channels, 5 cells a stage, 10 classes) but for the input: one batch of Fashion-MNIST, 28 x 28 with one channel.
Cells are drawn from those that the table of proxies has. A proxy that says nothing of a cell puts it last.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archsearch import zoo
from archsearch.evaluate.classification import Classification
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import Inputs
from archsearch.evaluate.proxies import Proxy
from archsearch.evaluate.proxies.scoring import Sample, sample_of, score
from archsearch.evaluate.table import Table
from archsearch_strategies.algorithms.correlation import rank_correlation

TABLE, PROXIES = "nasbench201_cifar10.npz", "nasbench201_proxies_cifar10.npz"
TEST = "test200"
OTHER_NAMES = {Proxy.NASWOT: "nwot"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32, help="inputs of one batch; zico sees two")
    parser.add_argument("--dataset", default="fashion-mnist", help="of the evaluator classification")
    parser.add_argument("--seed", type=int, default=0, help="of cells, weights and data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="lines of JSON, a cell each  [proxies-DATASET-BATCH-SEED.jsonl]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table.load(options.tables / TABLE, "nasbench201")
    with np.load(options.tables / PROXIES) as loaded:
        own = {name: loaded[name] for name in loaded.files}
    picked = np.random.Generator(np.random.PCG64(options.seed)).permutation(len(own["index"]))[: options.cells]
    out = options.out or Path(f"proxies-{options.dataset}-{options.batch}-{options.seed}.jsonl")
    found = measure(table, [int(own["index"][each]) for each in picked], options, out)
    report(table, own, picked, found)


def measure(table: Table, rows: list[int], options: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """Scores and milliseconds of each row, from `out` where they stand there already."""
    known = {entry["row"]: entry for entry in map(json.loads, out.read_text().splitlines())} if out.exists() else {}
    evaluator = Classification.configure({"dataset": options.dataset})
    shape = type(evaluator).input_shape(evaluator.config)
    sample = sample_of(evaluator.task(), Inputs(shape), batch_size=options.batch, batches=2, seed=options.seed)
    with out.open("a") as stream:
        for number, row in enumerate(rows):
            if row not in known:
                known[row] = {"row": row, **scores(table.architecture(row), sample, options.seed)}
                stream.write(json.dumps(known[row]) + "\n")
                stream.flush()
            print(f"\r{number + 1}/{len(rows)}", end="", flush=True)
    print()
    return [known[row] for row in rows]


def scores(architecture: dict[str, Any], sample: Sample, seed: int) -> dict[str, Any]:
    seed_everything(seed)
    network = zoo.build("nasbench201", architecture, classes=10, input_channels=sample.inputs.shape[0])
    start = time.perf_counter()
    found = score(network, sample, list(Proxy), seed)
    return {"scores": found.values, "ms": 1000 * (time.perf_counter() - start)}


def report(table: Table, own: dict[str, Any], picked: Any, found: list[dict[str, Any]]) -> None:
    accuracy = table.means(TEST)[own["index"][picked]]
    columns = [str(name) for name in own["columns"]]
    print(f"{len(found)} cells; Spearman's rank correlation with {TEST}, and of the two with each other")
    print(f"{'proxy':<10} {'here':>6} {'table':>6} {'both':>6} {'silent':>6}")
    for proxy in Proxy:
        values = [entry["scores"][proxy] for entry in found]
        here = [-np.inf if value is None else value for value in values]
        line = f"{proxy.value:<10} {rank_correlation(here, accuracy):>6.3f}"
        name = OTHER_NAMES.get(proxy, proxy.value)
        if name in columns:
            theirs = own["values"][picked, columns.index(name)]
            line += f" {rank_correlation(theirs, accuracy):>6.3f} {rank_correlation(here, theirs):>6.3f}"
        else:
            line += f" {'':>6} {'':>6}"
        print(f"{line} {sum(value is None for value in values):>6}")
    mean = sum(entry["ms"] for entry in found) / len(found)
    print(f"all of them: {mean:.0f} ms a network; {torch.get_num_threads()} threads, {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
