"""How a worker is told what to do: environment, flags, and the secrets directory, which is read and emptied at once."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsearch.errors import UserError
from archsearch.spec import names

DEFAULT_RUNNER = "archsearch.evaluate.kinds:run_kind"
GRACE_SECONDS = 20.0
ENV_GRACE_SECONDS = "ARCHSEARCH_GRACE_SECONDS"

# Nothing of this reaches user code: the driver's address, where secrets lay, and every way to the store's keys.
_WITHHELD = {
    names.ENV_DRIVER_URL,
    names.ENV_SECRETS_DIR,
    names.ENV_DRIVER_SETTINGS,
    *names.STORAGE_SECRET_KEYS,
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
}


@dataclass(frozen=True)
class Secrets:
    """What only the supervisor knows."""

    token: str
    storage: Mapping[str, str]  # AWS_… by name; empty: the default credential chain
    ca_bundle: str = ""  # path of a CA bundle for the store; no secret, so it stays where it is

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclass(frozen=True)
class WorkerSettings:
    """Everything else. `per_job` 0: no bound."""

    driver_url: str
    secrets_dir: Path
    work_dir: Path
    worker: str
    job: str
    code_dir: str
    per_job: int = 0
    metrics_port: int = 0
    grace_seconds: float = GRACE_SECONDS
    runner: str = DEFAULT_RUNNER
    die_with_parent: bool = False
    cpus: int = 0  # this worker's share of the machine; 0: all that it may use
    rank: int = 0
    ranks: int = 1  # above 1: workers of one Job that run their trials together
    address: str = ""  # where the others reach rank 0
    port: int = 0  # where rank 0's trial listens; 0: any free one


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> WorkerSettings:
    """Settings from flags and environment.

    Raises:
        UserError: a variable is missing or cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m archsearch.worker", description="Leases trials and runs them.")
    parser.add_argument("--metrics-port", type=int, default=0, help="serve Prometheus metrics here; 0: none")
    parser.add_argument(
        "--per-job", default="Auto", help="trials until this worker ends; Auto: as long as there are some"
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=environment.get(ENV_GRACE_SECONDS, str(GRACE_SECONDS)),
        help="how long a trial may take to checkpoint when the worker has to go",
    )
    parser.add_argument("--runner", default=DEFAULT_RUNNER, help="module:function that runs a trial in its child")
    parser.add_argument(
        "--rendezvous-port", type=int, default=0, help="where rank 0 of several meets the others; 0: any free port"
    )
    parser.add_argument("--die-with-parent", action="store_true", help="go when the process that started this one ends")
    flags = parser.parse_args(arguments)
    if flags.per_job != "Auto" and not (flags.per_job.isdigit() and int(flags.per_job) > 0):
        parser.error(f"--per-job must be Auto or a number above 0, it is {flags.per_job!r}")
    worker = environment.get(names.ENV_WORKER_NAME) or socket.gethostname()
    return WorkerSettings(
        driver_url=_needed(environment, names.ENV_DRIVER_URL, "the driver's address").rstrip("/"),
        secrets_dir=Path(_needed(environment, names.ENV_SECRETS_DIR, "the directory that holds the token")),
        work_dir=Path(environment.get(names.ENV_WORK_DIR) or names.PATH_WORK),
        worker=worker,
        job=environment.get(names.ENV_JOB_NAME) or worker,
        code_dir=environment.get(names.ENV_CODE_DIR, ""),
        per_job=0 if flags.per_job == "Auto" else int(flags.per_job),
        metrics_port=flags.metrics_port,
        grace_seconds=flags.grace_seconds,
        runner=flags.runner,
        die_with_parent=flags.die_with_parent,
        cpus=_count(environment, names.ENV_CPUS),
        **_group(environment, flags.rendezvous_port),
    )


def take_secrets(directory: Path) -> Secrets:
    """Read the secrets and unlink them, so that no later process can.

    Raises:
        UserError: there is no token, or a file cannot be removed.
    """
    found: dict[str, str] = {}
    for name in (names.SECRET_TOKEN_KEY, *names.STORAGE_SECRET_KEYS):
        path = directory / name
        try:
            found[name] = path.read_text().strip()
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"the secret {path} must be readable and removable by this worker: {error}") from error
    token = found.pop(names.SECRET_TOKEN_KEY, "")
    if not token:
        raise UserError(
            f"{directory / names.SECRET_TOKEN_KEY} is missing or empty: it must hold the experiment's token"
        )
    bundle = directory / "ca.crt"
    return Secrets(
        token, {name: value for name, value in found.items() if value}, str(bundle) if bundle.exists() else ""
    )


def child_environment(environment: Mapping[str, str], code_dir: str) -> dict[str, str]:
    """The environment of the zygote and so of user code: nothing secret, one thread until a trial sets its own."""
    clean = {name: value for name, value in environment.items() if name not in _WITHHELD}
    single = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
        "1",
    )
    # The NVML check asks for a GPU without initialising CUDA, which would be unusable in forked children.
    clean |= single | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    if code_dir:
        clean[names.ENV_CODE_DIR] = code_dir
    return clean


def _group(environment: Mapping[str, str], port: int) -> dict[str, Any]:
    """The fields of one of several workers that run their trials together."""
    rank, ranks = _count(environment, names.ENV_RANK), _count(environment, names.ENV_RANKS) or 1
    if rank >= ranks:
        raise UserError(f"{names.ENV_RANK} is {rank}: it must be below {names.ENV_RANKS}, which is {ranks}")
    if ranks == 1:
        return {}
    address = _needed(environment, names.ENV_ADDRESS, "the address where the other ranks reach this worker")
    return {"rank": rank, "ranks": ranks, "address": address, "port": port}


def _count(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or "0"
    if not text.isdecimal():
        raise UserError(f"the environment variable {name} is {text!r}: it must be a whole number, or not set")
    return int(text)


def _needed(environment: Mapping[str, str], name: str, what: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UserError(f"the environment variable {name} is not set: it must hold {what}")
    return value
