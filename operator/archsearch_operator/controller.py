"""Carries plans out: takes keys from the queue, looks, decides, writes. What it remembers may be lost."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from archsearch.errors import ArchsearchError
from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch.spec.problems import Problem
from archsearch_operator import events, objects
from archsearch_operator.client import ApiError, KubeClient
from archsearch_operator.health import Health
from archsearch_operator.metrics import Metrics
from archsearch_operator.observe import (
    Trouble,
    event_trouble,
    job_created,
    job_end,
    job_ready,
    job_suspended,
    labelled,
    pod_trouble,
)
from archsearch_operator.policies import network_policies
from archsearch_operator.queue import WorkQueue
from archsearch_operator.reconcile import NOT_READY_SECONDS, JobAction, Observed, Plan, changed, decide, differs
from archsearch_operator.settings import Settings
from archsearch_operator.store import Key, Store

_log = logging.getLogger(__name__)
EXPERIMENTS, JOBS = "nasexperiments", "jobs"
# Codes with which the API server refuses a child for what is in it: a quantity, a label, a selector of the user's.
_REFUSED = (400, 422)
# An earlier experiment's child of that name is not collected yet: it will be.
_OTHER_OWNER = "Only one reference can have Controller set to true"


class Refused(ArchsearchError):
    """The API server will never take what the user's spec makes."""


class Controller:
    """The operator without its watches: `observe` feeds it, `run` works."""

    def __init__(
        self, settings: Settings, client: KubeClient, metrics: Metrics, health: Health, stores: tuple[Store, Store]
    ) -> None:
        self._settings, self._client, self._metrics, self._health = settings, client, metrics, health
        self._experiments, self._jobs = stores
        self._queue: WorkQueue[Key] = WorkQueue()
        self._applied: dict[Key, tuple[str, float]] = {}  # digest of the children, and when they were applied
        self._cleaned: dict[Key, str] = {}  # mark of what was taken down
        self._told: dict[Key, tuple[str, dict[str, int]]] = {}  # uid, and what its Events tell of failures and alarms

    def observe(self, resource: str, kind: str | None, body: JsonObject) -> None:
        """A watch event: ADDED, MODIFIED, DELETED, or None for what the first LIST brought."""
        if kind is not None:
            self._metrics.watch_events.labels(resource).inc()
            self._metrics.last_event.labels(resource).set_to_current_time()
            self._health.watch_event(resource)
        store = self._experiments if resource == EXPERIMENTS else self._jobs
        key = store.remove(body) if kind == "DELETED" else store.observe(body, time.monotonic())
        if key is not None:
            self._queue.add(key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                synced = asyncio.Event()
                tasks.create_task(self._relist_forever(synced))
                tasks.create_task(self._beat())
                # Without the first LIST of Jobs every experiment would look as if it had none.
                await synced.wait()
                for _ in range(self._settings.workers):
                    tasks.create_task(self._work())
        finally:
            self._queue.close()

    async def relist(self) -> None:
        """One labelled LIST of each kind sets the store right. Raises ApiError."""
        for resource, store, kind, selector in (
            (EXPERIMENTS, self._experiments, names.KIND, ""),
            (JOBS, self._jobs, "Job", labelled(names.COMPONENT_STRATEGY)),
        ):
            started = time.monotonic()
            items: list[JsonObject] = []
            api = "archsearch.dev/v1alpha1" if resource == EXPERIMENTS else "batch/v1"
            for namespace in self._settings.watch_namespaces or ("",):
                found = await self._client.list(kind, namespace, labels=selector)
                # Items of a List carry neither kind nor version when they are built in.
                items += [{"apiVersion": api, **item, "kind": kind} for item in found]
            wrong = store.relist(items, started, time.monotonic())
            self._metrics.corrections.labels(resource).inc(len(wrong))
            self._health.relisted(resource, len(wrong))
            for key in wrong:
                self._queue.add(key)

    async def _relist_forever(self, synced: asyncio.Event) -> None:
        delay = self._settings.relist_seconds
        while True:
            try:
                await self.relist()
                self._metrics.relists.labels("done").inc()
                synced.set()
                delay = self._settings.relist_seconds
            except ApiError as error:
                self._metrics.relists.labels("failed").inc()
                _log.warning("a LIST failed, and is tried again: %s", error)
                delay = min(5.0 if synced.is_set() else 1.0, self._settings.relist_seconds)
            await asyncio.sleep(delay)

    async def _beat(self) -> None:
        while True:
            self._health.beat()
            self._metrics.queue_depth.set(len(self._queue))
            await asyncio.sleep(1.0)

    async def _work(self) -> None:
        while True:
            key, waited = await self._queue.get()
            self._metrics.queue_wait.observe(waited)
            at_least, reason = 0.0, ""
            with self._metrics.reconcile_seconds.time():
                try:
                    again = await self._reconcile(key)
                except ApiError as error:
                    reason, at_least = error.reason, error.retry_after
                    _log.log(logging.INFO if error.temporary else logging.WARNING, "%s: %s", key, error)
                except Exception:
                    # A fault of ours in one experiment must not stop the others.
                    reason = "Bug"
                    _log.exception("%s: the reconcile failed", key)
            if reason:
                self._metrics.reconcile_errors.labels(reason).inc()
                self._queue.failed(key, at_least)
                continue
            self._queue.done(key)
            if again is not None:
                self._queue.add(key, max(again, 0.05))

    async def _reconcile(self, key: Key) -> float | None:
        raw = self._experiments.get(key)
        if raw is None:
            self._forget(key)
            return None
        if raw["metadata"].get("deletionTimestamp"):
            return None
        observed = await self._look(key, raw)
        if observed is None:
            return None
        plan = decide(observed, self._settings)
        try:
            if plan.job is JobAction.CREATE and plan.experiment is not None:
                # Made before anything is told: a Job that is there although we have not seen it yet changes the story.
                observed = replace(observed, job=await self._create(key, observed, plan, plan.experiment))
                plan = decide(observed, self._settings)
            await self._publish(observed, plan)
            await self._tell(key, observed)
            if plan.delete:
                await self._client.delete(names.KIND, key.namespace, key.name, raw["metadata"]["uid"])
                return None
            await self._act(key, observed, plan)
        except Refused as error:
            await self._publish(observed, decide(replace(observed, job=None, refused=str(error)), self._settings))
            return self._settings.children_seconds
        if plan.again is None and not _closed(plan):
            return self._settings.children_seconds  # to apply the children again
        return plan.again

    def _forget(self, key: Key) -> None:
        self._queue.forget(key)
        self._applied.pop(key, None)
        self._cleaned.pop(key, None)
        self._told.pop(key, None)

    async def _look(self, key: Key, raw: JsonObject) -> Observed | None:
        """What is seen now. A Job that ended without a verdict makes us ask for the newest experiment first."""
        job = self._jobs.get(key)
        if job is not None and not _owned(job, raw):
            job = None
        observed = Observed(raw, time.time(), job)
        if job is not None and job_end(job) and not observed.search.over:
            fresh = await self._client.get(names.KIND, key.namespace, key.name)
            if fresh is None:
                return None
            self._experiments.observe(fresh, time.monotonic())
            observed = Observed(fresh, time.time(), job)
        if job is None or job_end(job) or job_suspended(job) or job_ready(job):
            return observed
        if observed.now - job_created(job) < NOT_READY_SECONDS and not (job.get("status") or {}).get("failed"):
            return observed
        return Observed(observed.raw, observed.now, job, await self._trouble(key, raw["metadata"]["uid"], job))

    async def _trouble(self, key: Key, uid: str, job: JsonObject) -> Trouble | None:
        """Pods are looked at only here, and only while none is ready."""
        selector = objects.selector_text(uid, names.COMPONENT_STRATEGY)
        pods = await self._client.list("Pod", key.namespace, labels=selector)
        trouble = pod_trouble(pods)
        if trouble:
            return trouble
        pending = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Pending"]
        if pods and not pending:
            return None
        subject = pending[0] if pending else job
        found = await self._client.list(
            "Event", key.namespace, fields=f"involvedObject.uid={subject['metadata']['uid']}"
        )
        return event_trouble(found)

    async def _publish(self, observed: Observed, plan: Plan) -> None:
        """Events first: their names make posting again safe; a status written first would hide a missing one."""
        meta, stored = observed.raw["metadata"], observed.status
        if not differs(plan.status, stored):
            return
        for condition, old in changed(plan.status["conditions"], stored.get("conditions") or []):
            event = events.transition_event(observed.raw, condition, old, observed.now)
            if event:
                await self._post(event)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "status": plan.status,
        }
        try:
            written = await self._client.apply(body, "status")
        except ApiError as error:
            if error.code in (404, 409):  # gone, or another one of that name: the watch will tell
                return
            raise
        self._experiments.observe(written, time.monotonic())

    async def _tell(self, key: Key, observed: Observed) -> None:
        uid = observed.raw["metadata"]["uid"]
        known, told = self._told.get(key, ("", {}))
        if known != uid:
            told = {}
            self._told[key] = (uid, told)
        for failure_class, count in observed.search.failures:
            if failure_class != "preempted" and told.get(failure_class) != count:
                await self._post(events.failure_event(observed.raw, failure_class, count, observed.now), again=True)
                told[failure_class] = count
        for alarm in observed.search.alarms:
            if alarm.identity not in told:
                await self._post(events.alarm_event(observed.raw, alarm, observed.now))
                told[alarm.identity] = 1

    async def _post(self, event: JsonObject, *, again: bool = False) -> None:
        """Events are worth no retry: one that fails is logged and forgotten."""
        try:
            await (self._client.apply(event) if again else self._client.create(event))
            self._metrics.events.labels(event["reason"]).inc()
        except ApiError as error:
            if error.code != 409:
                _log.info("the Event %s was not posted: %s", event["reason"], error)

    async def _act(self, key: Key, observed: Observed, plan: Plan) -> None:
        job = observed.job
        if plan.experiment is not None and not _closed(plan):
            await self._apply_children(key, plan.experiment)
        name = names.strategy_job(key.name)
        if plan.job in (JobAction.SUSPEND, JobAction.RESUME):
            body = {"spec": {"suspend": plan.job is JobAction.SUSPEND}}
            self._take(await self._client.patch("Job", key.namespace, name, body))
        if plan.job is JobAction.REPLACE and job is not None and plan.experiment is not None:
            await self._client.delete("Job", key.namespace, name, job["metadata"]["uid"])
            self._jobs.remove(job)
            await self._create(key, observed, plan, plan.experiment)
        if plan.clean:
            await self._clean(key, observed, plan)

    async def _apply_children(self, key: Key, experiment: objects.Experiment) -> None:
        """Applied when changed, and now and then against drift. Secrets are only created: nobody here may read one."""
        binding = objects.role_binding(experiment)
        children = [
            objects.service_account(experiment),
            objects.role(experiment),
            objects.service(experiment),
            *(network_policies(experiment) if self._settings.network_policy else ()),
        ]
        mark, now = objects.digest([experiment.uid, children, binding]), time.monotonic()
        known, since = self._applied.get(key, ("", 0.0))
        if known == mark and now - since < self._settings.children_seconds:
            return
        made = [objects.token_secret(experiment, secrets.token_urlsafe(32))]
        if experiment.storage.secret_name and not experiment.spec.storage.uri:
            made.append(objects.storage_secret(experiment, self._settings.storage_keys()))
        await _all([*(self._create_once(body) for body in made), *(self._client.apply(body) for body in children)])
        await self._bind(binding)
        self._applied[key] = (mark, now)

    async def _bind(self, binding: JsonObject) -> None:
        """The API server checks a binding against its cache of roles, which may not know a fresh role yet."""
        for delay in (0.1, 0.3, 1.0):
            try:
                await self._client.apply(binding)
                return
            except ApiError as error:
                if error.code != 404:
                    raise
            await asyncio.sleep(delay)
        await self._client.apply(binding)

    async def _create_once(self, body: JsonObject) -> None:
        try:
            await self._client.create(body)
        except ApiError as error:
            if error.code != 409:
                raise

    async def _create(self, key: Key, observed: Observed, plan: Plan, experiment: objects.Experiment) -> JsonObject:
        """The strategy Job with all that it needs: made, or found.

        Raises:
            Refused: the API server refuses what the user gave.
        """
        self._cleaned.pop(key, None)
        body = objects.strategy_job(experiment, self._settings, suspend=plan.suspend, attempt=plan.attempt)
        try:
            await self._apply_children(key, experiment)
            job = await self._client.create(body)
        except ApiError as error:
            if error.code == 409:
                found = await self._client.get("Job", key.namespace, body["metadata"]["name"])
                if found is None or not _owned(found, observed.raw):
                    raise
                job = found
            elif error.code in _REFUSED and _OTHER_OWNER not in str(error):
                words = f"the API server refuses the strategy's objects: {error}"
                problem = Problem("spec.driver", words, observed.raw["spec"].get("driver") or {}, "correct it")
                raise Refused(str(problem)) from error
            else:
                if error.code == 403 and "quota" in str(error):
                    trouble = Trouble(reasons.QUOTA_PENDING, f"the strategy Job is refused: {error}")
                    held = replace(observed, job=None, trouble=trouble)
                    await self._publish(held, decide(held, self._settings))
                raise
        self._take(job)
        return job

    async def _clean(self, key: Key, observed: Observed, plan: Plan) -> None:
        """Nothing of a finished or suspended experiment is left running, and no right that is not needed."""
        mark = f"{observed.raw['metadata']['uid']}/{plan.status['state']}/{observed.raw['metadata'].get('generation')}"
        if self._cleaned.get(key) == mark:
            return
        selector = objects.selector_text(observed.raw["metadata"]["uid"], names.COMPONENT_TRIAL)
        await self._client.delete_all("Job", key.namespace, selector)
        if _closed(plan):
            await self._client.delete("RoleBinding", key.namespace, names.role(key.name))
            self._applied.pop(key, None)
        self._cleaned[key] = mark

    def _take(self, job: JsonObject) -> None:
        self._jobs.observe(job, time.monotonic())


def _owned(body: JsonObject, raw: JsonObject) -> bool:
    uid = raw["metadata"]["uid"]
    return any(owner.get("uid") == uid for owner in body["metadata"].get("ownerReferences") or [])


def _closed(plan: Plan) -> bool:
    return plan.status["state"] in ("Succeeded", "Failed")


async def _all(calls: Sequence[Any]) -> None:
    """Run all; the first error is raised after every one has ended."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
