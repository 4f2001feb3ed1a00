"""How workers begin and end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.workers import Worker, alive, until

from archsearch.protocol import FailureClass, TrialState
from archsearch.spec import names
from archsearch.store import open_store
from archsearch.store.checkpoint import newest_checkpoint, read_checkpoint

NO_TORCH = {"PYTHONPATH": str(Path(__file__).parent / "no_torch")}


def test_sigterm_checkpoints_and_releases_and_another_worker_goes_on(worker: Worker, tmp_path: Path) -> None:
    done = tmp_path / "done"
    params = {"until": str(done), "save": True}
    worker.launch()
    worker.driver.offer(worker.trial("poll", 5, params=params))
    while worker.driver.reports.get(timeout=60).checkpoint is None:
        pass
    worker.below()
    os.kill(worker.pid, signal.SIGTERM)
    released = worker.driver.result()
    assert released.outcome.state is TrialState.PENDING
    assert released.outcome.failure is FailureClass.PREEMPTED
    assert released.next is None
    assert worker.wait() == names.EXIT_TERMINATED
    assert not any(alive(pid) for pid in worker.seen)

    newest = newest_checkpoint(open_store(str(worker.store)), "trials/5/checkpoints", tmp_path / "newest")
    assert newest is not None
    step = read_checkpoint(newest)[1]["step"]
    done.touch()
    worker.launch("--per-job", "1")
    outcome = worker.driver.run(worker.trial("poll", 5, attempt=2, params=params)).outcome
    assert outcome.state is TrialState.SUCCEEDED, outcome.message
    assert outcome.payload == {"start": step, "weight": [float(step)] * 3}
    assert worker.wait() == names.EXIT_DONE
    kept = {path.name for path in (worker.store / "trials/5/checkpoints").iterdir()}
    assert len(kept) <= 2


def test_a_trial_that_ignores_the_release_is_given_back_after_the_grace(worker: Worker, tmp_path: Path) -> None:
    note = tmp_path / "note"
    worker.launch("--grace-seconds", "600")
    worker.driver.offer(worker.trial("hang", params={"note": str(note)}))
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    worker.below()
    os.kill(worker.pid, signal.SIGTERM)
    worker.driver.reports.get(timeout=60)
    os.kill(worker.pid, signal.SIGINT)  # a second signal does not wait ten minutes
    outcome = worker.driver.result().outcome
    assert outcome.state is TrialState.PENDING
    assert outcome.metrics == {"accuracy": 0.25}
    assert worker.wait() == names.EXIT_TERMINATED
    assert not any(alive(pid) for pid in worker.seen)


def test_a_killed_supervisor_leaves_no_process(worker: Worker, tmp_path: Path) -> None:
    note = tmp_path / "note"
    worker.launch()
    worker.driver.offer(worker.trial("hang", params={"note": str(note)}))
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    assert len(worker.below()) >= 3
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    left = worker.seen | {int(pid) for pid in note.read_text().split()}
    until(lambda: not any(alive(pid) for pid in left))


def test_idle_workers_end_with_success(worker: Worker) -> None:
    worker.driver.idle_seconds = 0.2
    worker.launch(**NO_TORCH)
    assert worker.wait() == names.EXIT_DONE
    assert worker.driver.requests[0].worker == "worker-1"
    assert worker.driver.requests[0].version


def test_an_idle_worker_that_is_told_to_go_says_so(worker: Worker) -> None:
    worker.launch(**NO_TORCH)
    until(lambda: bool(worker.driver.requests))
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == names.EXIT_TERMINATED


def test_a_wrong_token_is_told_and_not_tried_again(worker: Worker) -> None:
    worker.launch(token="another-experiments-token", **NO_TORCH)
    assert worker.wait() == names.EXIT_REFUSED
    assert "refuses this worker's token" in worker.stderr()
    assert "another-experiments-token" not in worker.stderr()
    assert worker.driver.requests == []


def test_another_version_is_refused_for_good(worker: Worker) -> None:
    worker.driver.refuse_version = True
    worker.launch(**NO_TORCH)
    assert worker.wait() == names.EXIT_REFUSED
    assert "this driver speaks another version" in worker.stderr()


def test_a_worker_waits_for_a_driver_that_is_not_there_yet(worker: Worker) -> None:
    worker.driver.stop()
    worker.driver.done = True
    worker.launch(**NO_TORCH)
    until(lambda: "does not answer" in worker.stderr())
    worker.driver.start()
    assert worker.wait() == names.EXIT_DONE


def test_a_zygote_that_cannot_import_torch_is_told_to_the_driver(worker: Worker) -> None:
    worker.launch(**NO_TORCH)
    for number in range(3):
        outcome = worker.driver.run(worker.trial("succeed", number)).outcome
        assert outcome.failure is FailureClass.INFRASTRUCTURE
        assert "no torch here" in outcome.message
    assert worker.wait() == 1
    assert "several times in a row" in worker.stderr()


def test_secrets_are_unlinked_before_anything_else_starts(worker: Worker) -> None:
    worker.launch(**NO_TORCH)
    until(lambda: bool(worker.driver.requests))
    assert list(worker.secrets.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "words"), [(names.ENV_DRIVER_URL, names.ENV_DRIVER_URL), (names.ENV_SECRETS_DIR, "token")]
)
def test_settings_that_are_missing_are_named(worker: Worker, missing: str, words: str) -> None:
    worker.launch(**{missing: ""})
    assert worker.wait() == 2
    assert missing in worker.stderr()
    assert words in worker.stderr()
    assert "Traceback" not in worker.stderr()


def test_a_worker_can_go_with_the_process_that_started_it(worker: Worker) -> None:
    worker.launch_below("--die-with-parent", **NO_TORCH)
    until(lambda: bool(worker.driver.requests))
    assert worker.below()
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in worker.seen))


def test_a_worker_whose_parent_was_killed_waits_for_no_checkpoint(worker: Worker, tmp_path: Path) -> None:
    note = tmp_path / "note"
    worker.launch_below("--die-with-parent", "--grace-seconds", "100000")
    worker.driver.offer(worker.trial("hang", params={"note": str(note)}))
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    assert len(worker.below()) == 4  # supervisor, zygote, trial child, and what that one left
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in worker.seen))
    assert not list((worker.root / "work").glob("worker-*"))


def test_plain_trial_code_runs_by_the_default_runner(worker: Worker) -> None:
    worker.driver.report_seconds = 600.0  # the result carries all
    worker.launch(runner="archsearch.evaluate.kinds:run_kind", **{names.ENV_CPUS: "1"})
    message = worker.driver.run(worker.trial("", params={}, architecture={}))
    assert message.outcome.state is TrialState.SUCCEEDED, message.outcome.message
    assert message.outcome.metrics == {"accuracy": 0.5}
    assert message.outcome.resources.threads == 1
    assert [point.metrics for point in message.points] == [{"accuracy": 0.25}]
