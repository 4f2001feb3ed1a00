"""What should be, from what is: pure functions. The controller carries the plan out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pydantic import ValidationError

from archsearch.spec import names, reasons
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import NASExperiment, OnDelete, Storage
from archsearch.spec.problems import Problem
from archsearch.spec.unsupported import unsupported_problems
from archsearch.spec.wiring import run_uri
from archsearch_operator import objects
from archsearch_operator.conditions import Phase, View, conditions
from archsearch_operator.objects import Experiment
from archsearch_operator.observe import (
    Search,
    Trouble,
    clip,
    epoch,
    job_created,
    job_end,
    job_ready,
    job_suspended,
    read_search,
    timestamp,
)
from archsearch_operator.settings import Settings

ATTEMPTS = 3  # how often a strategy Job that ended without a verdict is made anew
FINISH_SECONDS = 60.0  # how long a strategy pod may live on after its verdict
NOT_READY_SECONDS = 5.0
_LOOK_SECONDS = 15.0


class JobAction(Enum):
    KEEP = auto()
    CREATE = auto()
    REPLACE = auto()  # delete and create anew
    SUSPEND = auto()
    RESUME = auto()


@dataclass(frozen=True)
class Observed:
    """All that a decision rests on."""

    raw: JsonObject  # the experiment, as the API server holds it
    now: float
    job: JsonObject | None = None
    trouble: Trouble | None = None  # why its pod is not up
    refused: str = ""  # the API server's words when it refused a child for good

    @property
    def search(self) -> Search:
        return read_search(self.raw)

    @property
    def status(self) -> JsonObject:
        return self.raw.get("status") or {}

    @property
    def finished_before(self) -> bool:
        """The stored conditions say that it is over."""
        return any(
            condition.get("type") in ("Succeeded", "Failed")
            and condition.get("status") == "True"
            and condition.get("reason") != reasons.SPEC_INVALID
            for condition in self.status.get("conditions") or []
        )


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: status, Events, then the rest."""

    status: JsonObject
    experiment: Experiment | None = None  # None: refused, nothing is made
    job: JobAction = JobAction.KEEP
    attempt: int = 1
    suspend: bool = False  # of a Job that is created
    clean: bool = False  # take down what a finished or suspended experiment left
    delete: bool = False  # its time to live is over
    again: float | None = None  # look again after so many seconds


def understand(raw: JsonObject, settings: Settings) -> tuple[Experiment | None, tuple[Problem, ...]]:
    """The parsed experiment with its storage, or why it cannot run."""
    try:
        parsed = NASExperiment.model_validate({key: raw.get(key) for key in ("apiVersion", "kind", "metadata", "spec")})
    except ValidationError as error:
        return None, tuple(_problem(fault) for fault in error.errors(include_url=False))
    meta, spec = parsed.metadata, parsed.spec
    storage, problems = _storage(spec.storage, meta.name, meta.uid, settings)
    problems += unsupported_problems(raw["spec"])
    if spec.retention.on_delete is OnDelete.DELETE:
        problems.append(
            Problem(
                "spec.retention.onDelete",
                "is not supported yet: nothing empties the bucket",
                spec.retention.on_delete.value,
                f"leave it at {OnDelete.RETAIN.value} and remove the folder in status.storageUri yourself",
            )
        )
    if problems:
        return None, tuple(problems)
    return Experiment(meta.namespace, meta.name, meta.uid, spec, storage), ()


def _problem(fault: Any) -> Problem:
    path = ".".join(str(part) for part in fault["loc"]) or "the manifest"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if path == "metadata.name":
        remedy = f"at most {names.NAME_MAX} lower case letters, digits and hyphens: delete it and choose another name"
        return Problem(path, message, fault["input"], remedy)
    if isinstance(fault["input"], dict):
        return Problem(path, message)
    return Problem(path, message, fault["input"])


def _storage(own: Storage, name: str, uid: str, settings: Settings) -> tuple[Storage, list[Problem]]:
    if own.uri:
        if own.uri.startswith("s3://") and own.uri.removeprefix("s3://").strip("/"):
            return own, []
        remedy = "give s3://BUCKET/PREFIX; a path would be lost with its pod"
        return own, [Problem("spec.storage.uri", "is no bucket that pods can share", own.uri, remedy)]
    named = [field for field in ("endpoint", "region", "secret_name", "ca_config_map_name") if getattr(own, field)]
    if named:
        field = {"secret_name": "secretName", "ca_config_map_name": "caConfigMapName"}.get(named[0], named[0])
        problem = Problem(
            f"spec.storage.{field}",
            "is given without spec.storage.uri",
            getattr(own, named[0]),
            "give uri as well, or neither",
        )
        return own, [problem]
    if not settings.storage_uri:
        remedy = "give s3://BUCKET/PREFIX, or install the chart with storage.uri or devStore.enabled"
        return own, [Problem("spec.storage.uri", "is missing and the operator has no default storage", "", remedy)]
    secret = names.storage_secret(name, uid) if settings.storage_secret_dir else ""
    return Storage(
        uri=settings.storage_uri, endpoint=settings.storage_endpoint, region=settings.storage_region, secret_name=secret
    ), []


def decide(observed: Observed, settings: Settings) -> Plan:
    """The plan for one experiment. Says nothing of one that is being deleted: the garbage collector takes that."""
    experiment, problems = understand(observed.raw, settings)
    if observed.search.over and observed.finished_before:
        problems = ()  # a search that is over stays what it was
    invalid = observed.refused or "; ".join(map(str, problems))
    if invalid:
        return _refuse(observed, clip(invalid))
    search = observed.search
    asked_to_stop = bool(observed.raw["spec"].get("suspend"))
    if _over(observed, experiment):
        return _finish(observed, experiment)

    action, attempt, failure = _job_action(observed, experiment, asked_to_stop)
    if failure:
        return _close(observed, View(Phase.FAILED, search, failure=failure), experiment)
    phase = _phase(observed, asked_to_stop, action)
    trouble = None if phase is Phase.SUSPENDED else observed.trouble
    return Plan(
        _status(observed, View(phase, search, trouble=trouble), experiment),
        experiment,
        job=action,
        attempt=attempt,
        suspend=asked_to_stop,
        clean=action is JobAction.SUSPEND,
        again=_look_again(observed, phase),
    )


def _refuse(observed: Observed, message: str) -> Plan:
    """Nothing of a spec that cannot run is made; what ran under an earlier one rests."""
    job = observed.job
    stop = job is not None and not job_end(job) and not job_suspended(job)
    status = _status(observed, View(Phase.FAILED, observed.search, invalid=message), None)
    return Plan(status, job=JobAction.SUSPEND if stop else JobAction.KEEP, clean=stop)


def _reopened(observed: Observed, experiment: Experiment | None) -> bool:
    """A finished search whose budget is another now."""
    job = observed.job
    if job is None or experiment is None or not (job_end(job) or job_suspended(job)):
        return False
    before = (job["metadata"].get("annotations") or {}).get(objects.ANNOTATION_BUDGET_HASH)
    return before is not None and before != objects.budget_hash(experiment.spec)


def _over(observed: Observed, experiment: Experiment | None) -> bool:
    """The driver's verdict stands and its pod is gone, or had its time to go."""
    job, search = observed.job, observed.search
    if not search.over or _reopened(observed, experiment):
        return False
    if job is None:
        return observed.finished_before
    if job_end(job):
        return True
    return job_created(job) <= search.updated < observed.now - FINISH_SECONDS


def _finish(observed: Observed, experiment: Experiment | None) -> Plan:
    job = observed.job
    phase = Phase.SUCCEEDED if observed.search.state == "Succeeded" else Phase.FAILED
    linger = job is not None and not job_end(job) and not job_suspended(job)
    return _close(observed, View(phase, observed.search), experiment, JobAction.SUSPEND if linger else JobAction.KEEP)


def _close(observed: Observed, view: View, experiment: Experiment | None, job: JobAction = JobAction.KEEP) -> Plan:
    remaining = _remaining(observed)
    return Plan(
        _status(observed, view, experiment),
        experiment,
        job=job,
        clean=True,
        delete=remaining is not None and remaining <= 0,
        again=remaining,
    )


def _remaining(observed: Observed) -> float | None:
    """Seconds until a finished experiment is deleted; None: never."""
    ttl = observed.raw["spec"].get("ttlSecondsAfterFinished")
    if ttl is None:
        return None
    ended = epoch(observed.status.get("completionTime")) or observed.now
    return max(0.0, ended + float(ttl) - observed.now)


def _job_action(
    observed: Observed, experiment: Experiment | None, asked_to_stop: bool
) -> tuple[JobAction, int, Trouble | None]:
    job, search = observed.job, observed.search
    if job is None:
        return JobAction.CREATE, 1, None
    notes = job["metadata"].get("annotations") or {}
    if _reopened(observed, experiment) and (search.over or job_end(job)):
        return JobAction.REPLACE, 1, None
    attempt = int(notes.get(objects.ANNOTATION_ATTEMPT, "1"))
    if job_end(job):
        if attempt < ATTEMPTS:
            return JobAction.REPLACE, attempt + 1, None
        log = f"kubectl logs job/{job['metadata']['name']}"
        message = f"the strategy pod ended {attempt} times without a verdict; its log says more: {log}"
        return JobAction.KEEP, attempt, Trouble(reasons.STRATEGY_CRASHED, message)
    if experiment and notes.get(names.ANNOTATION_SPEC_HASH) != objects.driver_hash(experiment.spec):
        return JobAction.REPLACE, attempt, None
    if job_suspended(job):
        return (JobAction.KEEP if asked_to_stop else JobAction.RESUME), attempt, None
    # A driver that is not up cannot be waited for; one that is up says Suspended when its trials have let go.
    if asked_to_stop and (search.state == "Suspended" or not job_ready(job)):
        return JobAction.SUSPEND, attempt, None
    return JobAction.KEEP, attempt, None


def _phase(observed: Observed, asked_to_stop: bool, action: JobAction) -> Phase:
    job, search = observed.job, observed.search
    if asked_to_stop:
        still = job is None or job_suspended(job) or action is JobAction.SUSPEND
        return Phase.SUSPENDED if still else Phase.SUSPENDING
    fresh = job is not None and action is JobAction.KEEP
    if fresh and search.over and job is not None and job_created(job) <= search.updated:
        return Phase.FINISHING
    if fresh and search.state == "Running" and not observed.trouble:
        return Phase.RUNNING
    return Phase.PENDING


def _look_again(observed: Observed, phase: Phase) -> float | None:
    if phase is Phase.FINISHING:
        return max(1.0, observed.search.updated + FINISH_SECONDS + 1.0 - observed.now)
    if phase in (Phase.PENDING, Phase.SUSPENDING, Phase.RUNNING) and not job_ready(observed.job):
        return _LOOK_SECONDS if observed.trouble else NOT_READY_SECONDS
    return None


def _status(observed: Observed, view: View, experiment: Experiment | None) -> JsonObject:
    """The operator's part of the status: only fields that have a value."""
    meta, old = observed.raw["metadata"], observed.status
    generation, now = int(meta.get("generation") or 0), timestamp(observed.now)
    status: JsonObject = {
        "conditions": conditions(view, generation, old.get("conditions") or [], now),
        "state": str(view.phase),
        "observedGeneration": generation,
    }
    if experiment is not None:
        status["storageUri"] = run_uri(experiment.storage.uri, experiment.namespace, experiment.name, experiment.uid)
        status["startTime"] = old.get("startTime") or now
    elif view.phase.over:
        status |= {key: old[key] for key in ("storageUri", "startTime") if old.get(key)}
    if view.phase.over:
        keep = old.get("completionTime") if observed.status.get("state") == str(view.phase) else None
        status["completionTime"] = keep or now
    return status


def differs(status: JsonObject, stored: JsonObject) -> bool:
    """Whether the operator's part of the stored status must be written."""
    mine = ("conditions", "state", "observedGeneration", "storageUri", "startTime", "completionTime")
    return any(status.get(key) != (stored.get(key) or None) for key in mine)


def changed(new: Sequence[JsonObject], old: Sequence[JsonObject]) -> list[tuple[JsonObject, JsonObject]]:
    """Pairs of a condition and what it was ({} at first) where status or reason is another."""
    before = {condition.get("type"): condition for condition in old}
    pairs = [(condition, before.get(condition["type"]) or {}) for condition in new]
    return [
        pair for pair in pairs if any(pair[0].get(key) != pair[1].get(key) for key in ("status", "reason", "message"))
    ]
