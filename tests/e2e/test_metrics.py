"""A real Prometheus scrapes operator, driver and worker of a running experiment, and promtool finds nothing to say."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Experiment, Installation, forwarded, spec, until

from archsearch.spec import names

Maker = Callable[[str], Experiment]
SHOWN = {
    "operator": ["archsearch_operator_reconcile_seconds_count", "archsearch_operator_api_requests_total"],
    "driver": ["archsearch_trials_total", "archsearch_ledger_commits_total", "archsearch_workers_alive"],
    "worker": ["archsearch_worker_trials_total", "archsearch_worker_step"],
}


@pytest.fixture(scope="module")
def prometheus_programs() -> None:
    missing = [program for program in ("prometheus", "promtool") if shutil.which(program) is None]
    if missing:
        told = f"{', '.join(missing)} not in PATH: install Prometheus (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)


@contextmanager
def _prometheus(ports: dict[str, int], folder: Path) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A server that scrapes these local ports; gives a function that asks it a query."""
    jobs = [
        {"job_name": part, "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for part, port in ports.items()
    ]
    config = folder / "prometheus.json"  # JSON is YAML
    config.write_text(json.dumps({"scrape_configs": jobs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ],
        stdout=log,
        stderr=log,
    )

    def ask(query: str) -> list[dict[str, Any]]:
        url = f"http://{address}/api/v1/query?query={urllib.parse.quote(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except OSError:
            return []

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def test_prometheus_scrapes_all_three(
    experiment: Maker, installation: Installation, prometheus_programs: None, tmp_path: Path
) -> None:
    search = experiment("measured").apply(
        spec(
            budget={"maxTrials": 40},
            evaluator={"python": "e2e_space:fit", "config": {"steps": 12, "pause": 0.25}},
        )
    )
    search.until_trials(2)
    pods = {
        "operator": (installation.namespace, installation.operator_pod()),
        "driver": (search.namespace, search.live_pod(names.COMPONENT_STRATEGY)),
        "worker": (search.namespace, search.live_pod(names.COMPONENT_TRIAL)),
    }
    with ExitStack() as stack:
        ports = {
            part: stack.enter_context(forwarded(namespace, f"pod/{pod}", names.METRICS_PORT))
            for part, (namespace, pod) in pods.items()
        }
        for part, port in ports.items():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                text = answer.read().decode()
            ours = "".join(line for line in text.splitlines(keepends=True) if "archsearch_" in line)
            checked = subprocess.run(
                ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False
            )
            assert checked.returncode == 0, f"{part}: {checked.stdout}{checked.stderr}"
            assert not (checked.stdout + checked.stderr).strip(), f"{part}: {checked.stdout}{checked.stderr}"
            assert not any(f'{label}="' in ours for label in ("trial", "number", "architecture"))
        ask = stack.enter_context(_prometheus(ports, tmp_path))
        until("all three are up", lambda: len(ask("up == 1")) == len(ports), seconds=60, explain=search.explain)
        for part, metrics in SHOWN.items():
            for metric in metrics:
                until(f"{part} shows {metric}", lambda metric=metric: ask(metric), seconds=60, explain=search.explain)
