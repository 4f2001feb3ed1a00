"""A cluster that runs pods, for the end-to-end tests: kubectl, helm, images, waiting, and a way to the bucket."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archsearch.spec import names
from archsearch.store import Credentials, Store, open_store

REPOSITORY = Path(__file__).parents[2]
ENV_IMAGE_COMMAND = "ARCHSEARCH_E2E_IMAGE_COMMAND"
ENV_KUBE_RESTART = "ARCHSEARCH_E2E_KUBE_RESTART"
ENV_FAKE_GPUS = "ARCHSEARCH_E2E_FAKE_GPUS"
POLL_SECONDS = 1.0
BUCKET = "archsearch"
CODE = REPOSITORY / "tests/e2e/e2e_space.py"

# What each image is made of, so that its tag changes when it must be built again and only then.
IMAGES = {
    "archsearch-trial": (
        "trial_image/Dockerfile",
        ("trial_image", "strategies", "operator", "cli", "pyproject.toml", "constraints.txt"),
    ),
    "archsearch-operator": (
        "operator/Dockerfile",
        ("trial_image", "strategies", "operator", "cli", "pyproject.toml", "constraints.txt"),
    ),
    "archsearch-devstore": ("helm/devstore/Dockerfile", ("helm/devstore",)),
}


class CommandError(AssertionError):
    """A command ended with another code than 0."""


def run(command: Sequence[str], *, stdin: str | None = None, timeout: float = 120, check: bool = True) -> str:
    """The command's standard output; its errors in the exception."""
    done = subprocess.run(
        list(command), input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=os.environ
    )
    if check and done.returncode != 0:
        raise CommandError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = 120, check: bool = True) -> str:
    return run(["kubectl", *arguments], stdin=stdin, timeout=timeout, check=check)


def helm(*arguments: str, timeout: float = 300) -> str:
    return run(["helm", *arguments], timeout=timeout)


def build_images() -> dict[str, str]:
    """Build the images and load them into the cluster, by the command in the environment. Tags follow the content."""
    command = shlex.split(os.environ[ENV_IMAGE_COMMAND])
    tags = {}
    for image, (dockerfile, sources) in IMAGES.items():
        tags[image] = f"e2e-{_digest((dockerfile, *sources))}"
        run([*command, f"{image}:{tags[image]}", str(REPOSITORY), str(REPOSITORY / dockerfile)], timeout=1800)
    return tags


def _digest(sources: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        root = REPOSITORY / source
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
                digest.update(str(file.relative_to(REPOSITORY)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def until(
    what: str, found: Callable[[], Any], *, seconds: float = 120, explain: Callable[[], str] | None = None
) -> Any:
    """The first true value of `found`, asked again and again. An API server that is away counts as not yet."""
    deadline = time.monotonic() + seconds
    trouble = ""
    while True:
        try:
            if value := found():
                return value
            trouble = ""
        except (CommandError, subprocess.TimeoutExpired) as error:
            trouble = f" ({error})"
        if time.monotonic() >= deadline:
            more = f"\n{explain()}" if explain is not None else ""
            raise AssertionError(f"not within {seconds:.0f} s: {what}{trouble}{more}")
        time.sleep(POLL_SECONDS)


def get(kind: str, namespace: str, *arguments: str) -> Any:
    """`kubectl get -o json`, parsed."""
    return json.loads(kubectl("-n", namespace, "get", kind, *arguments, "-o", "json"))


@dataclass
class Installation:
    """The chart, installed once a session, and the namespaces that its operator serves."""

    release: str
    namespace: str
    served: list[str]
    _used: int = field(default=0)

    @property
    def devstore(self) -> str:
        return f"{self.fullname}-devstore"

    @property
    def fullname(self) -> str:
        return self.release if "archsearch" in self.release else f"{self.release}-archsearch"

    def operator_pod(self) -> str:
        pods = get("pods", self.namespace, "-l", "app.kubernetes.io/component=operator")["items"]
        return str(pods[0]["metadata"]["name"])

    def fresh_namespace(self) -> str:
        """The next served namespace that no test has used."""
        self._used += 1
        return self.served[self._used - 1]

    def keys(self) -> dict[str, str]:
        data = get("secret", self.namespace, self.devstore)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    @contextmanager
    def bucket(self, prefix: str) -> Iterator[Store]:
        """The development store's bucket below `prefix`, through a forwarded port."""
        with forwarded(self.namespace, f"service/{self.devstore}", 8333) as port:
            keys = self.keys()
            yield open_store(
                f"s3://{BUCKET}/{prefix}",
                endpoint=f"http://127.0.0.1:{port}",
                credentials=Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]),
            )


@contextmanager
def forwarded(namespace: str, target: str, port: int) -> Iterator[int]:
    """A local port that leads to one in the cluster."""
    process = subprocess.Popen(
        ["kubectl", "-n", namespace, "port-forward", target, f":{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r":(\d+) ->", line)
        assert match, f"kubectl port-forward says: {line}"
        yield int(match[1])
    finally:
        process.terminate()
        process.wait(timeout=10)


@dataclass
class Experiment:
    """One NASExperiment in a namespace."""

    namespace: str
    name: str

    def apply(self, spec: Mapping[str, Any]) -> Experiment:
        document = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        kubectl("apply", "-f", "-", stdin=json.dumps(document))
        return self

    def raw(self) -> dict[str, Any]:
        found: dict[str, Any] = get("nasx", self.namespace, self.name)
        return found

    def patch(self, spec: Mapping[str, Any]) -> None:
        kubectl("-n", self.namespace, "patch", "nasx", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def search(self) -> dict[str, Any]:
        return (self.raw().get("status") or {}).get("search") or {}

    def trials(self, state: str = "succeeded") -> int:
        return int((self.search().get("trials") or {}).get(state) or 0)

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = (self.raw().get("status") or {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == kind), {})

    def until_condition(self, kind: str, status: str = "True", *, seconds: float = 240) -> dict[str, Any]:
        def met() -> dict[str, Any] | None:
            condition = self.condition(kind)
            if kind == "Succeeded" and self.condition("Failed").get("status") == "True":
                raise RuntimeError(f"{self.name} failed: {self.condition('Failed')}\n{self.explain()}")
            return condition if condition.get("status") == status else None

        found: dict[str, Any] = until(f"{self.name} has {kind}={status}", met, seconds=seconds, explain=self.explain)
        return found

    def until_trials(self, count: int, *, seconds: float = 180) -> None:
        until(f"{self.name} has {count} results", lambda: self.trials() >= count, seconds=seconds, explain=self.explain)

    def pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"{names.LABEL_EXPERIMENT}={self.name},{names.LABEL_COMPONENT}={component}"
        return list(get("pods", self.namespace, "-l", selector)["items"])

    def live_pod(self, component: str) -> str:
        """Name of a running pod that is not going."""
        for pod in self.pods(component):
            if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp"):
                return str(pod["metadata"]["name"])
        return ""

    def prefix(self) -> str:
        """Where the run lies in the bucket."""
        uri = str(self.raw()["status"]["storageUri"])
        return uri.removeprefix(f"s3://{BUCKET}/")

    def explain(self) -> str:
        """What a person would look at when it does not go on."""
        parts = [
            json.dumps(self.raw().get("status"), indent=1),
            kubectl("-n", self.namespace, "get", "jobs,pods", "-o", "wide", check=False),
            kubectl("-n", self.namespace, "get", "events", "--sort-by=.lastTimestamp", check=False)[-4000:],
        ]
        for pod in self.pods(names.COMPONENT_STRATEGY) + self.pods(names.COMPONENT_TRIAL):
            name = pod["metadata"]["name"]
            parts.append(f"--- {name}\n" + kubectl("-n", self.namespace, "logs", "--tail=40", name, check=False))
        return "\n".join(parts)


def trial_records(store: Store) -> dict[str, list[int]]:
    """Numbers of the ledger's trials in its order: those submitted, and those with a result."""
    from archsearch_strategies.ledger import read_ledger

    found: dict[str, list[int]] = {"submitted": [], "result": []}
    for record in read_ledger(store):
        if record["type"] in found and record.get("number") is not None:
            found[record["type"]].append(int(record["number"]))
    return found


def prepared(installation: Installation) -> str:
    """A fresh namespace with the tests' model code in the ConfigMap `code`."""
    namespace = installation.fresh_namespace()
    kubectl("-n", namespace, "create", "configmap", "code", f"--from-file={CODE}")
    return namespace


def spec(**changes: Any) -> dict[str, Any]:
    """Trials of about a second; four of them wait for each other's workers."""
    return {
        "objectives": [{"metric": "score"}],
        "modelSpace": {
            "python": {"class": "e2e_space:Net", "inputShape": [4], "source": {"configMapName": "code"}},
        },
        "strategy": {"name": "random"},
        "evaluator": {"python": "e2e_space:fit", "config": {"steps": 4, "pause": 0.25}},
        "budget": {"maxTrials": 10},
        "parallelTrials": 2,
        "trials": {"template": {"resources": {"requests": {"cpu": "50m", "memory": "200Mi"}}}},
        "seed": 3,
        **changes,
    }


def unhurried(pause: float, **arguments: int) -> dict[str, Any]:
    """A model space for supernets, NAS-Bench-201's, whose forward passes sleep `pause` seconds."""
    source = {"configMapName": "code"}
    return {"python": {"class": "e2e_space:Unhurried", "args": {"pause": pause, **arguments}, "source": source}}


def assert_whole(experiment: Experiment, installation: Installation, trials: int) -> None:
    """Each number once among the submitted and once among the results."""
    with installation.bucket(experiment.prefix()) as store:
        found = trial_records(store)
        summary = json.loads(store.get("summary.json"))
    assert found["submitted"] == list(range(1, trials + 1)), f"submitted: {found['submitted']}"
    assert sorted(found["result"]) == list(range(1, trials + 1)), f"results: {found['result']}"
    assert sum(summary["trials"].values()) == trials, f"summary: {summary['trials']}"
