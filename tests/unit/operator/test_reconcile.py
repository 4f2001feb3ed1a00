"""Plans: what should be, from what is."""

from typing import Any

import pytest

from archsearch.spec import names, reasons
from archsearch_operator import objects
from archsearch_operator.observe import Trouble, epoch
from archsearch_operator.reconcile import ATTEMPTS, JobAction, Observed, Plan, decide, differs, understand
from archsearch_operator.settings import Settings

CREATED = "2026-01-01T00:00:10Z"
SPOKE = "2026-01-01T00:01:00Z"
NOW = epoch("2026-01-01T00:01:30Z")


def job(experiment: objects.Experiment, settings: Settings, *, ended: str = "", ready: int = 1, **options: Any) -> Any:
    made = objects.strategy_job(experiment, settings, **options)
    made["metadata"] |= {"uid": "job", "creationTimestamp": CREATED}
    made["status"] = {"ready": ready}
    if ended:
        made["status"] = {"conditions": [{"type": ended, "status": "True"}]}
    return made


def spoken(raw: dict[str, Any], updated: str = SPOKE, **verdict: Any) -> dict[str, Any]:
    raw.setdefault("status", {})["search"] = {"verdict": verdict, "updatedTime": updated}
    return raw


def rows(plan: Plan) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in plan.status["conditions"]}


def remember(raw: dict[str, Any], plan: Plan) -> dict[str, Any]:
    raw["status"] = {**raw.get("status", {}), **plan.status}
    return raw


def test_the_first_visit_sets_every_condition_and_makes_the_job(raw: Any, settings: Settings) -> None:
    plan = decide(Observed(raw, NOW), settings)
    assert plan.job is JobAction.CREATE
    assert plan.suspend is False
    assert rows(plan) == {
        "Accepted": ("Unknown", reasons.PENDING_VALIDATION),
        "Running": ("False", reasons.STARTING),
        "Suspended": ("False", reasons.NOT_SUSPENDED),
        "Succeeded": ("False", reasons.IN_PROGRESS),
        "Failed": ("False", reasons.IN_PROGRESS),
    }
    assert all(each["observedGeneration"] == 1 and each["lastTransitionTime"] for each in plan.status["conditions"])
    assert plan.status["storageUri"] == f"s3://bucket/prefix/team/digits/{raw['metadata']['uid']}"
    assert plan.status["startTime"] == "2026-01-01T00:01:30Z"
    assert "completionTime" not in plan.status


def test_a_written_status_is_not_written_again_and_times_stay(raw: Any, settings: Settings, experiment: Any) -> None:
    first = decide(Observed(raw, NOW), settings)
    remember(raw, first)
    again = decide(Observed(raw, NOW + 500, job(experiment, settings, ready=0)), settings)
    assert not differs(again.status, raw["status"])
    spoken(raw, accepted=True, state="Running")
    running = decide(Observed(raw, NOW + 500, job(experiment, settings)), settings)
    assert differs(running.status, raw["status"])
    times = {each["type"]: each["lastTransitionTime"] for each in running.status["conditions"]}
    assert times["Running"] != times["Failed"] == "2026-01-01T00:01:30Z"
    assert rows(running)["Running"] == ("True", reasons.SEARCHING)
    assert rows(running)["Accepted"] == ("True", reasons.ACCEPTED)
    assert running.status["state"] == "Running"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"storage": {}}, ["spec.storage.uri", "default storage", "devStore.enabled"]),
        ({"storage": {"uri": "s3://"}}, ["spec.storage.uri", "s3://"]),
        ({"storage": {"endpoint": "http://x"}}, ["spec.storage.endpoint", "http://x"]),
        ({"retention": {"onDelete": "Delete"}}, ["spec.retention.onDelete", "Delete", "Retain"]),
        ({"parallelTrials": 30}, ["parallelTrials", "30", "20"]),
        ({"seed": -1}, ["spec.seed", "-1"]),
        ({"resumeFrom": "s3://b/old"}, ["spec.resumeFrom", "s3://b/old", "leave it out"]),
        ({"nonsense": 1}, ["spec.nonsense"]),
    ],
)
def test_a_spec_that_cannot_run_is_refused_with_field_value_and_remedy(
    raw: Any, settings: Settings, change: dict[str, Any], words: list[str]
) -> None:
    raw["spec"] |= change
    plan = decide(Observed(raw, NOW), settings)
    assert plan.experiment is None
    assert plan.job is JobAction.KEEP
    assert rows(plan)["Accepted"] == ("False", reasons.SPEC_INVALID)
    assert rows(plan)["Failed"] == ("True", reasons.SPEC_INVALID)
    message = plan.status["conditions"][0]["message"]
    assert all(word in message for word in words), message


def test_a_name_that_is_too_long_is_refused(raw: Any, settings: Settings) -> None:
    raw["metadata"]["name"] = "n" * (names.NAME_MAX + 1)
    plan = decide(Observed(raw, NOW), settings)
    assert f"{names.NAME_MAX}" in plan.status["conditions"][0]["message"]
    assert plan.experiment is None


def test_the_default_storage_comes_with_a_secret_of_the_experiments_own(raw: Any) -> None:
    del raw["spec"]["storage"]
    settings = Settings(
        trial_image="t", storage_uri="s3://shared", storage_endpoint="http://s:1", storage_secret_dir="/mounted"
    )
    found, problems = understand(raw, settings)
    assert problems == ()
    assert found is not None
    assert (found.storage.uri, found.storage.endpoint) == ("s3://shared", "http://s:1")
    assert found.storage.secret_name == names.storage_secret("digits", raw["metadata"]["uid"])


def test_a_refusal_ends_when_its_cause_does(raw: Any, settings: Settings) -> None:
    uri = raw["spec"].pop("storage")
    remember(raw, decide(Observed(raw, NOW), settings))
    assert raw["status"]["state"] == "Failed"
    raw["spec"]["storage"] = uri
    plan = decide(Observed(raw, NOW + 1), settings)
    assert plan.job is JobAction.CREATE
    assert rows(plan)["Failed"] == ("False", reasons.IN_PROGRESS)
    assert "completionTime" not in plan.status


def test_a_running_search_whose_spec_became_invalid_rests(raw: Any, settings: Settings, experiment: Any) -> None:
    raw["spec"]["retention"] = {"onDelete": "Delete"}
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert plan.job is JobAction.SUSPEND
    assert plan.clean


def test_the_drivers_refusal_is_the_experiments(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=False, state="Failed", reason=reasons.SPEC_INVALID, message="spec.strategy.name: no such")
    plan = decide(Observed(raw, NOW, job(experiment, settings, ended="Complete")), settings)
    assert rows(plan)["Accepted"] == ("False", reasons.SPEC_INVALID)
    assert rows(plan)["Failed"] == ("True", reasons.SPEC_INVALID)
    assert "no such" in plan.status["conditions"][4]["message"]
    assert plan.job is JobAction.KEEP


def test_a_verdict_counts_when_the_pod_is_gone(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Succeeded", reason=reasons.GOAL_REACHED, message="0.99")
    waiting = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert waiting.status["state"] == "Finishing"
    assert waiting.again is not None
    done = decide(Observed(raw, NOW, job(experiment, settings, ended="Complete")), settings)
    assert rows(done)["Succeeded"] == ("True", reasons.GOAL_REACHED)
    assert rows(done)["Running"] == ("False", reasons.FINISHED)
    assert rows(done)["Failed"] == ("False", reasons.GOAL_REACHED)
    assert (done.clean, done.job) == (True, JobAction.KEEP)
    assert done.status["completionTime"]


def test_a_strategy_pod_that_outlives_its_verdict_is_stopped(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Succeeded", reason=reasons.SEARCH_FINISHED)
    plan = decide(Observed(raw, NOW + 3600, job(experiment, settings)), settings)
    assert plan.status["state"] == "Succeeded"
    assert plan.job is JobAction.SUSPEND


def test_a_finished_experiment_stays_so_without_its_job(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Failed", reason=reasons.TOO_MANY_FAILED_TRIALS, message="6 of 20")
    remember(raw, decide(Observed(raw, NOW, job(experiment, settings, ended="Complete")), settings))
    plan = decide(Observed(raw, NOW + 9, None), settings)
    assert plan.job is JobAction.KEEP
    assert rows(plan)["Failed"] == ("True", reasons.TOO_MANY_FAILED_TRIALS)
    assert not differs(plan.status, raw["status"])


def test_a_raised_budget_reopens_a_finished_search(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Succeeded", reason=reasons.MAX_TRIALS_REACHED)
    old = job(experiment, settings, ended="Complete")
    remember(raw, decide(Observed(raw, NOW, old), settings))
    raw["spec"]["budget"] = {"maxTrials": 40}
    plan = decide(Observed(raw, NOW + 60, old), settings)
    assert plan.job is JobAction.REPLACE
    assert rows(plan)["Succeeded"] == ("False", reasons.IN_PROGRESS)
    remember(raw, plan)
    # The operator may die between deleting the old Job and making the new one.
    assert decide(Observed(raw, NOW + 61, None), settings).job is JobAction.CREATE
    reopened, _ = understand(raw, settings)
    assert reopened is not None
    fresh = job(reopened, settings, ready=0)
    fresh["metadata"]["creationTimestamp"] = "2026-01-01T00:03:00Z"
    plan = decide(Observed(raw, NOW + 7200, fresh), settings)
    assert plan.job is JobAction.KEEP
    assert plan.status["state"] == "Pending"


@pytest.mark.parametrize("ended", ["Complete", "Failed"])
def test_a_job_that_ended_without_a_verdict_is_made_anew_a_few_times(
    raw: Any, settings: Settings, experiment: Any, ended: str
) -> None:
    spoken(raw, accepted=True, state="Running")
    plan = decide(Observed(raw, NOW, job(experiment, settings, ended=ended)), settings)
    assert (plan.job, plan.attempt) == (JobAction.REPLACE, 2)
    last = decide(Observed(raw, NOW, job(experiment, settings, ended=ended, attempt=ATTEMPTS)), settings)
    assert rows(last)["Failed"] == ("True", reasons.STRATEGY_CRASHED)
    assert "kubectl logs job/digits-strategy" in last.status["conditions"][4]["message"]


def test_a_changed_driver_replaces_the_job_and_a_changed_budget_does_not(
    raw: Any, settings: Settings, experiment: Any
) -> None:
    running = job(experiment, settings)
    spoken(raw, accepted=True, state="Running")
    raw["spec"]["budget"] = {"maxTrials": 50}
    assert decide(Observed(raw, NOW, running), settings).job is JobAction.KEEP
    raw["spec"]["driver"] = {"image": "other:1"}
    assert decide(Observed(raw, NOW, running), settings).job is JobAction.REPLACE


def test_suspension_waits_for_the_driver_that_is_up(raw: Any, settings: Settings, experiment: Any) -> None:
    raw["spec"]["suspend"] = True
    spoken(raw, accepted=True, state="Running")
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert (plan.job, plan.status["state"]) == (JobAction.KEEP, "Suspending")
    assert rows(plan)["Suspended"] == ("False", reasons.NOT_SUSPENDED)
    spoken(raw, accepted=True, state="Suspended")
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert (plan.job, plan.status["state"], plan.clean) == (JobAction.SUSPEND, "Suspended", True)
    assert rows(plan)["Suspended"] == ("True", reasons.SUSPENDED)
    assert rows(plan)["Running"] == ("False", reasons.SUSPENDED)


def test_suspension_does_not_wait_for_a_driver_that_is_not_up(raw: Any, settings: Settings, experiment: Any) -> None:
    raw["spec"]["suspend"] = True
    crashed = Observed(raw, NOW, job(experiment, settings, ready=0), Trouble(reasons.STRATEGY_CRASHED, "x"))
    assert decide(crashed, settings).job is JobAction.SUSPEND
    created = decide(Observed(raw, NOW), settings)
    assert (created.job, created.suspend) == (JobAction.CREATE, True)


def test_resume_brings_the_job_back(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Suspended")
    plan = decide(Observed(raw, NOW, job(experiment, settings, ready=0, suspend=True)), settings)
    assert (plan.job, plan.status["state"]) == (JobAction.RESUME, "Pending")


def test_what_the_strategy_pod_waits_for_is_the_reason(raw: Any, settings: Settings, experiment: Any) -> None:
    trouble = Trouble(reasons.IMAGE_UNAVAILABLE, "no such image")
    plan = decide(Observed(raw, NOW, job(experiment, settings, ready=0), trouble), settings)
    assert rows(plan)["Running"] == ("False", reasons.IMAGE_UNAVAILABLE)
    assert plan.again is not None


def test_what_trials_wait_for_shows_whether_some_run_or_none(raw: Any, settings: Settings, experiment: Any) -> None:
    spoken(raw, accepted=True, state="Running")
    raw["status"]["search"]["waiting"] = {"reason": reasons.UNSCHEDULABLE, "message": "no GPU"}
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert rows(plan)["Running"] == ("False", reasons.UNSCHEDULABLE)
    raw["status"]["search"]["trials"] = {"running": 2}
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert rows(plan)["Running"] == ("True", reasons.SEARCHING)
    assert "Unschedulable" in plan.status["conditions"][1]["message"]


def test_the_time_to_live_counts_from_the_end(raw: Any, settings: Settings, experiment: Any) -> None:
    raw["spec"]["ttlSecondsAfterFinished"] = 100
    spoken(raw, accepted=True, state="Succeeded", reason=reasons.SEARCH_FINISHED)
    finished = job(experiment, settings, ended="Complete")
    plan = decide(Observed(raw, NOW, finished), settings)
    assert (plan.delete, plan.again) == (False, 100.0)
    remember(raw, plan)
    assert decide(Observed(raw, NOW + 99, finished), settings).delete is False
    assert decide(Observed(raw, NOW + 100, finished), settings).delete is True


def test_a_status_of_a_newer_driver_is_read_as_far_as_it_is_known(
    raw: Any, settings: Settings, experiment: Any
) -> None:
    spoken(raw, accepted=True, state="Running", novelty=[1])
    raw["status"]["search"]["unheardOf"] = {"a": 1}
    plan = decide(Observed(raw, NOW, job(experiment, settings)), settings)
    assert plan.status["state"] == "Running"
