"""Seconds from apply to the first trial pod Running, with cached images, beside a plain Job of the same image.

    python benchmarks/first_trial.py --namespace NAMESPACE [--rounds 5]

Needs KUBECONFIG, kubectl, and the chart installed with a default storage that serves NAMESPACE. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from typing import Any

from archsearch.spec import names

TARGET_SECONDS, BOUND_SECONDS = 6.0, 10.0
SPEC: dict[str, Any] = {
    "objectives": [{"metric": "accuracy"}],
    "modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 4, "cells": 1}}},
    "strategy": {"name": "random"},
    "evaluator": {"name": "classification", "config": {"dataset": "digits", "epochs": 1}},
    "budget": {"maxTrials": 1},
}


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=True).stdout


def until_running(namespace: str, selector: str, started: float, limit: float = 120.0) -> float:
    """Seconds from `started` until a pod of the selector runs, seen by a watch and not by polling."""
    command = [
        "kubectl",
        "-n",
        namespace,
        "get",
        "pods",
        "-l",
        selector,
        "--watch",
        "-o",
        "jsonpath={.status.phase}{'\\n'}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            for line in watch.stdout:
                if line.strip() == "Running":
                    return time.monotonic() - started
                if time.monotonic() - started > limit:
                    break
        finally:
            watch.terminate()
    raise SystemExit(f"no pod of {selector} ran within {limit:.0f} s")


def experiment(namespace: str, name: str) -> tuple[float, str]:
    document = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": SPEC,
    }
    started = time.monotonic()
    kubectl("apply", "-f", "-", stdin=json.dumps(document))
    selector = f"{names.LABEL_EXPERIMENT}={name},{names.LABEL_COMPONENT}={names.COMPONENT_TRIAL}"
    seconds = until_running(namespace, selector, started)
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json"))["items"]
    image = pods[0]["spec"]["containers"][0]["image"]
    kubectl("-n", namespace, "delete", names.PLURAL, name, "--wait=true")
    return seconds, image


def plain_job(namespace: str, name: str, image: str) -> float:
    container = {
        "name": "plain",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "5"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": pod}},
    }
    started = time.monotonic()
    kubectl("apply", "-f", "-", stdin=json.dumps(document))
    seconds = until_running(namespace, f"job-name={name}", started)
    kubectl("-n", namespace, "delete", "job", name, "--wait=true")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    searches, jobs = [], []
    for index in range(flags.rounds):
        seconds, image = experiment(flags.namespace, f"first-trial-{index}")
        searches.append(seconds)
        jobs.append(plain_job(flags.namespace, f"plain-{index}", image))
    result = {
        "first_trial_seconds": {"median": statistics.median(searches), "max": max(searches), "rounds": searches},
        "plain_job_seconds": {"median": statistics.median(jobs), "max": max(jobs), "rounds": jobs},
        "target_seconds": TARGET_SECONDS,
        "bound_seconds": BOUND_SECONDS,
        "within_bound": max(searches) <= BOUND_SECONDS,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
