"""A whole experiment on this machine: what `archsearch run FILE` does, without its display."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archsearch.errors import UserError
from archsearch.spec.experiment import NASExperiment
from archsearch.store import Credentials, Store, open_at
from archsearch_strategies.driver.bulletin import Listener
from archsearch_strategies.driver.driver import Driver
from archsearch_strategies.driver.summary import Summary
from archsearch_strategies.launch.local import LocalLauncher

RUNS_FOLDER = "archsearch-runs"
STORE_PATIENCE_SECONDS = 30.0


def default_uri(experiment: NASExperiment) -> str:
    """Where a run lies when nobody says: the spec's storage, or ./archsearch-runs/NAME."""
    return experiment.spec.storage.uri or f"{RUNS_FOLDER}/{experiment.metadata.name}"


async def run_local(
    experiment: NASExperiment,
    *,
    uri: str | None = None,
    code_dir: Path | None = None,
    listener: Listener | None = None,
    credentials: Credentials | None = None,
    ca_bundle: str = "",
    worker_arguments: tuple[str, ...] = (),
    on_driver: Callable[[Driver], None] | None = None,
    **driver_options: Any,
) -> Summary:
    """Run an experiment with workers on this machine, to its end or until SIGINT or SIGTERM.

    The same call resumes a run that was interrupted or killed. A second SIGINT does not wait for checkpoints.

    Args:
        uri: folder or s3:// URI of the run; None for `default_uri`.
        code_dir: the user's modules: the folder of the manifest.
        listener: gets a bounded status at most once a second.
        credentials, ca_bundle: for the store; by default boto3's chain on this machine.
        on_driver: is given the driver before it runs (metrics, `update`, `request_stop`).

    Returns:
        The summary; state Stopped after a signal.

    Raises:
        UserError: the URI cannot be used.
        StoreError: the store cannot be used.
        Fenced: another driver has taken over this run.
    """
    store = _store(experiment, uri or default_uri(experiment), credentials, ca_bundle)
    log_dir = _log_dir(store.uri)
    launcher = LocalLauncher(
        code_dir=code_dir,
        log_dir=log_dir,
        credentials=credentials or (await asyncio.to_thread(_own_keys) if log_dir is None else None),
        ca_bundle=ca_bundle,
        arguments=worker_arguments,
    )
    driver = Driver(
        experiment,
        store,
        launcher,
        listener=listener,
        open_earlier=lambda other: _store(experiment, other, credentials, ca_bundle),
        until_suspended=True,
        store_patience=STORE_PATIENCE_SECONDS,
        **driver_options,
    )
    if on_driver is not None:
        on_driver(driver)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, driver.request_stop)
    try:
        return await driver.run()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _store(experiment: NASExperiment, uri: str, credentials: Credentials | None, ca_bundle: str) -> Store:
    return open_at(experiment.spec.storage, uri, credentials=credentials, ca_bundle=ca_bundle)


def _log_dir(uri: str) -> Path | None:
    """Workers log beside the ledger where the run is a folder."""
    return Path(uri.removeprefix("file://")) / "logs" if uri.startswith(("/", "file://")) else None


def _own_keys() -> Credentials | None:
    """The keys that boto3 finds on this machine: the workers get them by file, not by environment."""
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        found = boto3.Session().get_credentials()
        if found is None:
            return None
        keys = found.get_frozen_credentials()
    except BotoCoreError as error:
        raise UserError(f"the AWS credentials of this machine cannot be used: {error}") from error
    return Credentials(keys.access_key or "", keys.secret_key or "", keys.token or "")
