"""The strategy pod: the driver with the cluster's launcher, its own experiment and its status."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from archsearch.errors import Fenced, StoreError, StoreUnavailable, UserError
from archsearch.protocol import StorageRef
from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.load import parse_experiment
from archsearch.spec.problems import SpecError
from archsearch.spec.status import SearchStatus, Verdict
from archsearch.spec.wiring import DriverSettings, run_uri
from archsearch.store import Credentials, Store, open_at
from archsearch_strategies.driver.driver import Driver
from archsearch_strategies.driver.publish import StatusPublisher
from archsearch_strategies.driver.status import timestamp
from archsearch_strategies.driver.summary import Summary
from archsearch_strategies.launch.kubeapi import ApiError, KubeApi
from archsearch_strategies.launch.kubernetes import KubernetesLauncher
from archsearch_strategies.launch.manifests import lease_url, trial_labels

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_RETRY = 1  # the kubelet starts this container again
FINAL_STATUS_SECONDS = 600.0
_ANY_ADDRESS = "0.0.0.0"  # the workers are in other pods


def read_settings(environment: Mapping[str, str]) -> DriverSettings:
    """What the operator wrote into the pod's environment.

    Raises:
        UserError: the variable is missing or not what an operator of this version writes.
    """
    text = environment.get(names.ENV_DRIVER_SETTINGS, "")
    if not text:
        raise UserError(
            f"the environment variable {names.ENV_DRIVER_SETTINGS} is not set: the operator sets it in a strategy pod; "
            "on a laptop use `archsearch run FILE`"
        )
    try:
        return DriverSettings.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(
            f"{names.ENV_DRIVER_SETTINGS}: {where}: {fault['msg']}; operator and strategy image must be of one version"
        ) from None


def open_run_store(settings: DriverSettings, *, secrets: Path, ca_bundle: Path) -> Store:
    """The run's folder, with the keys of the mounted Secret or else the pod's identity.

    Raises:
        UserError: the URI, the endpoint or the keys cannot be used.
    """
    storage = settings.storage
    uri = run_uri(storage.uri, settings.namespace, settings.experiment, settings.uid)
    return open_other_store(settings, uri, secrets=secrets, ca_bundle=ca_bundle)


def open_other_store(settings: DriverSettings, uri: str, *, secrets: Path, ca_bundle: Path) -> Store:
    """The store at `uri`, with the endpoint and the keys of the run's own. Raises as `open_run_store`."""
    storage = settings.storage
    credentials = Credentials.from_directory(secrets) if storage.secret_name else None
    if storage.secret_name and credentials is None:
        keys = " and ".join(names.STORAGE_SECRET_KEYS[:2])
        raise UserError(f"spec.storage.secretName: the Secret {storage.secret_name!r} holds no {keys}; add them")
    bundle = str(ca_bundle / "ca.crt") if storage.ca_config_map_name else ""
    return open_at(storage, uri, credentials=credentials, ca_bundle=bundle)


def read_token(directory: Path) -> str:
    """The experiment's token.

    Raises:
        UserError: the file is missing or empty.
    """
    path = directory / names.SECRET_TOKEN_KEY
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise UserError(f"the token {path} cannot be read: {error.strerror}; the operator mounts it there") from error
    if not token:
        raise UserError(f"the token {path} is empty: delete its Secret, and the operator makes it again")
    return token


class StrategyPod:
    """One strategy pod's life: `run` gives its exit code."""

    def __init__(self, settings: DriverSettings, api: KubeApi) -> None:
        self._settings, self._api = settings, api
        self._publisher = StatusPublisher(api, settings.experiment)
        self._launcher = KubernetesLauncher(settings, api)
        self._driver: Driver | None = None
        self._generation = 0
        self._deleted = False
        self._told_to_go = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        publishing = asyncio.create_task(self._publisher.run(), name="publish status")
        try:
            return await self._run()
        finally:
            publishing.cancel()
            await self._launcher.detach()

    async def _run(self) -> int:
        raw = await self._own_experiment()
        if raw is None:
            log.info("the experiment is gone: nothing to do")
            return EXIT_OK
        try:
            experiment = parse_experiment({key: raw.get(key) for key in ("apiVersion", "kind", "metadata", "spec")})
            store = open_run_store(
                self._settings, secrets=Path(names.PATH_STORAGE_SECRET), ca_bundle=Path(names.PATH_CA_BUNDLE)
            )
            token = read_token(Path(names.PATH_TOKEN))
            await self._check_template(experiment)
        except UserError as error:
            return await self._refuse(str(error))
        return await self._drive(experiment, store, token, str(raw["metadata"].get("resourceVersion", "")))

    async def _drive(self, experiment: NASExperiment, store: Store, token: str, version: str) -> int:
        storage = self._settings.storage
        driver = self._driver = Driver(
            experiment,
            store,
            self._launcher,
            listener=self._publisher,
            token=token,
            host=_ANY_ADDRESS,
            port=names.LEASE_PORT,
            url=lease_url(self._settings),
            storage=StorageRef(
                uri=store.uri, endpoint=storage.endpoint, region=storage.region, path_style=storage.path_style
            ),
            labels=trial_labels(self._settings),
            open_earlier=lambda uri: open_other_store(
                self._settings, uri, secrets=Path(names.PATH_STORAGE_SECRET), ca_bundle=Path(names.PATH_CA_BUNDLE)
            ),
        )
        self._generation = experiment.metadata.generation
        if self._told_to_go.is_set():
            driver.request_stop()
        server = await _serve(driver.metrics.registry)
        following = asyncio.create_task(self._follow(version), name="follow experiment")
        try:
            return await self._end(await driver.run())
        except Fenced as error:
            log.error("another driver has taken over this experiment, so this one stops: %s", error)
            return EXIT_RETRY
        except StoreUnavailable as error:
            log.error("the store does not answer: %s", error)
            return EXIT_RETRY
        except StoreError as error:
            if driver.status().verdict.accepted:  # it worked before, so it may again
                log.error("the store refuses: %s", error)
                return EXIT_RETRY
            await self._launcher.stop()
            return await self._refuse(f"spec.storage: {error}")
        finally:
            following.cancel()
            await server.cleanup()

    async def _end(self, summary: Summary) -> int:
        over = summary.state in {"Succeeded", "Failed"}
        log.info("%s: %s %s", summary.state, summary.reason, summary.message)
        if self._deleted:
            return EXIT_OK
        written = await self._publisher.finish(FINAL_STATUS_SECONDS if over else 2.0)
        if over:
            return EXIT_OK if written else EXIT_RETRY
        return names.EXIT_TERMINATED

    async def _refuse(self, message: str) -> int:
        """The experiment cannot run. The pod ends well: starting it again would change nothing."""
        log.error("refused: %s", message)
        verdict = Verdict(accepted=False, state="Failed", reason=reasons.SPEC_INVALID, message=message[:4096])
        self._publisher(SearchStatus(verdict=verdict, updated_time=timestamp(time.time())))
        return EXIT_OK if await self._publisher.finish(FINAL_STATUS_SECONDS) else EXIT_RETRY

    async def _check_template(self, experiment: NASExperiment) -> None:
        try:
            problems = await self._launcher.check(experiment.spec)
        except ApiError as error:
            log.warning("the trials' template could not be checked now: %s", error)
            return
        if problems:
            raise SpecError(problems)

    def _on_signal(self) -> None:
        log.info("told to go")
        self._told_to_go.set()
        if self._driver is not None:
            self._driver.request_stop()

    # The experiment.

    async def _own_experiment(self) -> JsonObject | None:
        """The experiment as it is now; None: it is gone, or another one has its name."""
        pause = 0.5
        while True:
            try:
                raw = await self._api.get_experiment(self._settings.experiment)
            except ApiError as error:
                if error.code == 404:
                    return None
                log.warning("the experiment cannot be read now: %s", error)
                if self._told_to_go.is_set():
                    return None
                await asyncio.sleep(max(pause, error.retry_after))
                pause = min(pause * 2, 30.0)
                continue
            meta = raw["metadata"]
            return raw if meta["uid"] == self._settings.uid and not meta.get("deletionTimestamp") else None

    async def _follow(self, version: str) -> None:
        """Hand changes of the spec to the driver; stop it when the experiment is deleted."""
        while True:
            try:
                async for event in self._api.watch_experiment(self._settings.experiment, version):
                    raw = event.get("object") or {}
                    version = (raw.get("metadata") or {}).get("resourceVersion", version)
                    if event.get("type") in {"MODIFIED", "ADDED"}:
                        self._take(raw)
                    elif event.get("type") == "DELETED":
                        self._take(None)
            except ApiError as error:
                if error.code != 410:
                    log.warning("watching the experiment: %s", error)
                await asyncio.sleep(max(1.0, error.retry_after))
                current = await self._own_experiment()
                self._take(current)
                if current is not None:
                    version = current["metadata"]["resourceVersion"]

    def _take(self, raw: JsonObject | None) -> None:
        driver = self._driver
        if driver is None:
            return
        if raw is None or raw["metadata"].get("deletionTimestamp") or raw["metadata"]["uid"] != self._settings.uid:
            if not self._deleted:
                log.info("the experiment is deleted")
            self._deleted = True
            driver.request_stop()
            return
        generation = int(raw["metadata"].get("generation") or 0)
        if generation == self._generation:
            return
        self._generation = generation
        try:
            changed = parse_experiment({key: raw.get(key) for key in ("apiVersion", "kind", "metadata", "spec")})
        except SpecError as error:
            log.error("the changed spec cannot be used, so the search goes on with the earlier one: %s", error)
            return
        driver.update(changed.spec)


async def _serve(registry: CollectorRegistry) -> web.AppRunner:
    """/metrics and /healthz, on both ports that the pod declares. That it answers shows that the event loop turns."""
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", health)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    for port in (names.METRICS_PORT, names.HEALTH_PORT):
        await web.TCPSite(runner, _ANY_ADDRESS, port).start()
    return runner
