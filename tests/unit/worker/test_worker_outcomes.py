"""How trials end, as the driver sees it. One worker serves them all."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from support.workers import Worker, alive, until

from archsearch.protocol import LOG_TAIL_BYTES, FailureClass, KeepWeights, TrialKind, TrialState
from archsearch.spec.pods import Isolation
from archsearch.store import open_store
from archsearch.store.checkpoint import upload_directory, write_checkpoint


def test_a_result_carries_metrics_points_payload_and_resources(shared: Worker) -> None:
    usual, shared.driver.report_seconds = shared.driver.report_seconds, 600.0  # no report comes before the result
    try:
        message = shared.driver.run(shared.trial("succeed", threads=2))
    finally:
        shared.driver.report_seconds = usual
    outcome = message.outcome
    assert outcome.state is TrialState.SUCCEEDED
    assert outcome.metrics == {"accuracy": 0.5}
    assert [point.step for point in message.points] == [0, 1, 2]
    assert message.points[1].metrics == {"loss": 0.5, "accuracy": pytest.approx(1 / 3)}
    assert outcome.payload["sum"] == 64.0**3
    assert outcome.artifacts == {}
    assert outcome.resources.threads == 2
    assert outcome.resources.device == "cpu"
    assert outcome.resources.wall_seconds > 0
    assert outcome.resources.cpu_seconds > 0
    assert outcome.resources.peak_memory_bytes > 10_000_000
    assert message.worker == "worker-1"
    assert message.job == "job-1"
    assert message.next is not None


@pytest.mark.parametrize("report_seconds", [0.2, 600.0])
def test_points_with_weights_are_cut_into_requests_that_fit(shared: Worker, report_seconds: float) -> None:
    usual, shared.driver.report_seconds = shared.driver.report_seconds, report_seconds
    while not shared.driver.reports.empty():
        shared.driver.reports.get()
    try:
        message = shared.driver.run(shared.trial("curves", params={"points": 20}))
    finally:
        shared.driver.report_seconds = usual
    assert message.outcome.state is TrialState.SUCCEEDED
    reports = [shared.driver.reports.get() for _ in range(shared.driver.reports.qsize())]
    bodies = [*(report.points for report in reports), message.points]
    points = [point for body in bodies for point in body]
    assert [point.step for point in points] == list(range(20))
    assert all(len(point.weights or {}) == 4000 for point in points)
    assert [point.step for point in points if point.alarm] == [2]
    assert len([body for body in bodies if body]) >= 3


def test_each_trial_has_a_process_of_its_own_that_is_gone_afterwards(shared: Worker) -> None:
    pids = [shared.run("succeed").payload["pid"] for _ in range(3)]
    assert len(set(pids)) == 3
    assert not any(alive(pid) for pid in pids[:2])  # the next trial began when the last one's process was gone
    until(lambda: not alive(pids[2]))


@pytest.mark.parametrize(
    ("do", "params", "failure", "words"),
    [
        ("error", {}, FailureClass.USER_ERROR, ["ValueError: the user's own mistake", "worker_trials.py"]),
        ("memory", {}, FailureClass.OUT_OF_MEMORY, ["MemoryError: no more"]),
        ("metric", {"name": "accuracy", "number": "nan"}, FailureClass.BAD_METRIC, ["'accuracy' is nan"]),
        ("metric", {"name": "loss", "number": "1"}, FailureClass.BAD_METRIC, ["'accuracy' was not reported", "loss"]),
        ("unserializable", {}, FailureClass.USER_ERROR, ["no JSON"]),
        ("huge", {}, FailureClass.USER_ERROR, ["cannot be handed in", "bytes"]),
        ("leave", {"how": "exit"}, FailureClass.USER_ERROR, ["sys.exit(3)"]),
        ("leave", {"how": "_exit", "code": 5}, FailureClass.USER_ERROR, ["exit code 5"]),
        ("leave", {"how": "_exit"}, FailureClass.USER_ERROR, ["exit code 0 before it reported a result"]),
        ("die", {"signal": signal.SIGKILL}, FailureClass.USER_ERROR, ["SIGKILL"]),
        ("die", {"signal": signal.SIGSEGV}, FailureClass.USER_ERROR, ["SIGSEGV"]),
        ("scribble", {}, FailureClass.USER_ERROR, ["wrote to the line"]),
    ],
)
def test_failures_have_a_class_and_words(
    shared: Worker, do: str, params: dict[str, Any], failure: FailureClass, words: list[str]
) -> None:
    outcome = shared.run(do, params=params)
    assert outcome.state is TrialState.FAILED
    assert outcome.failure is failure
    assert all(word in outcome.message for word in words), outcome.message


@pytest.mark.parametrize("how", ["exit", "_exit"])
def test_a_reported_final_result_counts_though_the_code_ends_its_process(shared: Worker, how: str) -> None:
    outcome = shared.run("leave", params={"how": how, "final": True})
    assert outcome.state is TrialState.SUCCEEDED
    assert outcome.metrics == {"accuracy": 0.75, "extra": 2.0}


def test_a_failed_trial_leaves_the_end_of_its_log_in_the_store(shared: Worker) -> None:
    outcome = shared.run("error", number=77)
    assert outcome.artifacts == {"log": "trials/77/log.txt"}
    log = (shared.store / "trials/77/log.txt").read_bytes()
    assert b"the user's own mistake" in log
    assert len(log) <= LOG_TAIL_BYTES


@pytest.mark.parametrize(
    ("keep", "best", "value", "kept"),
    [
        (KeepWeights.BEST, None, 0.5, True),
        (KeepWeights.BEST, 0.5, 0.5, True),
        (KeepWeights.BEST, 0.6, 0.5, False),
        (KeepWeights.ALWAYS, 0.6, 0.5, True),
        (KeepWeights.NEVER, None, 0.5, False),
    ],
)
def test_final_weights_are_kept_where_they_are_wanted(
    shared: Worker, keep: KeepWeights, best: float | None, value: float, kept: bool
) -> None:
    trial = shared.trial("succeed", 20, keep_weights=keep, best_value=best, params={"weights": True, "value": value})
    outcome = shared.driver.run(trial).outcome
    assert ("checkpoint" in outcome.artifacts) is kept
    if kept:
        folder = shared.store / outcome.artifacts["checkpoint"]
        assert outcome.artifacts["checkpoint"].startswith("trials/20/weights/")
        assert {"manifest.json", "state.json", "tensors.safetensors"} <= {path.name for path in folder.iterdir()}
        assert b"a line of the log" in (shared.store / outcome.artifacts["log"]).read_bytes()


def test_export_reads_its_checkpoint_and_its_files_are_uploaded(shared: Worker) -> None:
    made = shared.run("succeed", number=30, keep_weights=KeepWeights.ALWAYS, params={"weights": True})
    params = {"checkpoint": made.artifacts["checkpoint"], "target": "best"}
    outcome = shared.run("export", kind=TrialKind.EXPORT, params=params)
    assert outcome.state is TrialState.SUCCEEDED, outcome.message
    assert outcome.payload == {"names": ["weight"]}
    assert outcome.artifacts["model"] == "best"
    assert (shared.store / "best/architecture.json").read_text() == '{"note": "final"}'
    assert (shared.store / "best/manifest.json").exists()


def test_a_link_among_the_artifacts_is_not_followed(shared: Worker) -> None:
    outcome = shared.run("export", kind=TrialKind.EXPORT, params={"target": "linked", "link": True})
    assert outcome.failure is FailureClass.INFRASTRUCTURE
    assert "passwd is neither a file nor a folder" in outcome.message
    assert not (shared.store / "linked").exists()


def test_trials_map_one_download_of_the_weights_they_begin_with(shared: Worker, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "made", {f"w{i}": torch.full((2**20,), float(i)) for i in range(16)}, {})
    key = "trials/60/weights/1-1"
    upload_directory(open_store(str(shared.store)), key, tmp_path / "made")
    found = [shared.run("inherit", kind=TrialKind.INHERIT, params={"checkpoint": key}).payload for _ in range(3)]
    assert {each["total"] for each in found} == {2.0**20 * 120}  # what one wrote to its tensors no other one has
    assert len({each["path"] for each in found}) == 1
    assert not found[0]["path"].startswith(str(shared.store))
    for each in found:
        assert each["mapped"]
        assert each["grown"] < 16 * 2**20  # of 64 MiB
        assert (each["hashed"], each["mode"]) == (0, 0o400)
    write_checkpoint(tmp_path / "made", {"w": torch.ones(4)}, {})
    upload_directory(open_store(str(shared.store)), key, tmp_path / "made")
    other = shared.run("inherit", kind=TrialKind.INHERIT, params={"checkpoint": key}).payload
    assert other["total"] == 4.0


def test_a_checkpoint_that_is_not_there_is_named(shared: Worker) -> None:
    outcome = shared.run("export", kind=TrialKind.EXPORT, params={"checkpoint": "trials/9/weights/0-0", "target": "b"})
    assert outcome.failure is FailureClass.INFRASTRUCTURE
    assert "trials/9/weights/0-0" in outcome.message


def test_timeout_ends_a_trial_and_all_that_it_left_behind(shared: Worker) -> None:
    note = shared.root / "timeout"
    outcome = shared.run("hang", params={"note": str(note)}, timeout_seconds=1)
    assert outcome.failure is FailureClass.TIMEOUT
    assert "timeoutSeconds, 1 s" in outcome.message
    assert not any(alive(int(pid)) for pid in note.read_text().split())


def test_orphans_that_ignore_sigterm_are_gone_before_the_result(shared: Worker) -> None:
    note = shared.root / "leftovers"
    outcome = shared.run("leftovers", params={"note": str(note)})
    assert outcome.state is TrialState.SUCCEEDED
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


def test_stop_prunes_with_what_was_reported(shared: Worker) -> None:
    shared.driver.action = "stop"
    try:
        outcome = shared.run("poll")
    finally:
        shared.driver.action = "continue"
    assert outcome.state is TrialState.PRUNED
    assert outcome.metrics["accuracy"] == 0.1


def test_a_lost_lease_ends_the_trial_without_a_result(shared: Worker) -> None:
    note = shared.root / "lost"
    while not shared.driver.granted.empty():
        shared.driver.granted.get()
    shared.driver.offer(shared.trial("hang", params={"note": str(note)}))
    grant = shared.driver.granted.get(timeout=60)
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    shared.driver.lost.add(grant.lease)
    following = shared.driver.run(shared.trial("succeed", 2))
    assert following.lease != grant.lease
    assert following.outcome.state is TrialState.SUCCEEDED
    assert not any(alive(int(pid)) for pid in note.read_text().split())


def test_reports_stream_points_and_the_newest_checkpoint(shared: Worker) -> None:
    while not shared.driver.reports.empty():
        shared.driver.reports.get()
    done = shared.root / "streamed"
    shared.driver.offer(shared.trial("poll", 40, params={"save": True, "until": str(done)}))
    points: list[int] = []
    key = None
    while key is None:
        report = shared.driver.reports.get(timeout=60)
        points += [point.step for point in report.points]
        key = report.checkpoint
    done.touch()
    message = shared.driver.result()
    while not shared.driver.reports.empty():
        points += [point.step for point in shared.driver.reports.get().points]
    points += [point.step for point in message.points]
    assert points == list(range(1, len(points) + 1))
    assert key.startswith("trials/40/checkpoints/")
    assert (shared.store / key / "manifest.json").exists()


def test_the_driver_knows_the_points_before_a_checkpoint_is_in_the_store(shared: Worker) -> None:
    while not shared.driver.reports.empty():
        shared.driver.reports.get()
    shared.driver.report_seconds = 1000.0  # no heartbeat comes
    done = shared.root / "known"
    try:
        shared.driver.offer(shared.trial("poll", 41, params={"save": True, "until": str(done)}))
        until(lambda: list(shared.store.glob("trials/41/checkpoints/*/manifest.json")) != [])
        report = shared.driver.reports.get_nowait()
        assert report.checkpoint is None
        assert report.points[0].step == 1
    finally:
        shared.driver.report_seconds = 0.2
        done.touch()
    shared.driver.result()


def test_a_trial_goes_on_while_the_driver_is_away_and_its_result_is_offered_later(shared: Worker) -> None:
    done = shared.root / "back"
    while not shared.driver.granted.empty():
        shared.driver.granted.get()
    shared.driver.offer(shared.trial("poll", params={"until": str(done)}))
    shared.driver.granted.get(timeout=60)
    shared.driver.reports.get(timeout=60)
    shared.driver.stop()
    done.touch()
    until(lambda: "does not answer" in shared.stderr())
    shared.driver.start()
    assert shared.driver.result().outcome.state is TrialState.SUCCEEDED


def test_in_process_trials_share_a_child_until_one_fails(shared: Worker) -> None:
    def run(do: str, **params: Any) -> Any:
        return shared.run(do, isolation=Isolation.IN_PROCESS, params=params)

    first, second = run("succeed"), run("succeed")
    assert first.payload["pid"] == second.payload["pid"]
    note = shared.root / "resident"
    assert run("leftovers", note=str(note)).payload["pid"] == first.payload["pid"]
    assert run("error").failure is FailureClass.USER_ERROR
    fresh = run("succeed")
    assert fresh.payload["pid"] != first.payload["pid"]
    assert not any(alive(int(pid)) for pid in note.read_text().split())
    assert shared.run("succeed").payload["pid"] != fresh.payload["pid"]
    assert not alive(fresh.payload["pid"])


def test_a_trial_sees_neither_token_nor_keys_nor_the_drivers_address(shared: Worker) -> None:
    seen = shared.run("look", params={"supervisor": shared.pid, "secrets": str(shared.secrets)}, threads=2).payload
    everything = "\n".join([*seen["environ"], *seen["environ"].values(), seen["zygote"], seen["supervisor"]])
    for secret in (shared.driver.token, shared.driver.url, "an-access-key", "a-very-secret-key", "a-session-token"):
        assert secret not in everything
    assert seen["supervisor"] == "refused: PermissionError"
    assert seen["memory"] == "refused: PermissionError"
    assert seen["secrets"] == []
    assert seen["stdin"] == "/dev/null"
    assert seen["session"]
    assert seen["directory"]
    assert seen["threads"] == 2


def test_the_drivers_release_gives_the_trial_back_and_keeps_the_worker(shared: Worker) -> None:
    shared.driver.action = "release"
    try:
        outcome = shared.run("poll", number=50)
    finally:
        shared.driver.action = "continue"
    assert outcome.state is TrialState.PENDING
    assert outcome.failure is FailureClass.PREEMPTED
    assert list((shared.store / "trials/50/checkpoints").iterdir())
    assert shared.run("succeed").state is TrialState.SUCCEEDED


def test_metrics_are_served_without_trial_numbers(shared: Worker) -> None:
    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{shared.metrics_port}/metrics", timeout=60) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    before = scrape()
    shared.run("succeed", number=471100)
    shared.run("error", number=471101)
    shared.run("succeed", number=471102)
    after = scrape()
    for result, count in (("succeeded", 2), ("userError", 1)):
        name = f'archsearch_worker_trials_total{{kind="evaluate",result="{result}"}}'
        assert after[name] == before.get(name, 0) + count
    assert after["archsearch_worker_step"] == 2
    assert after["archsearch_worker_loss"] == pytest.approx(1 / 3)
    assert after["archsearch_worker_upload_bytes_total"] > before["archsearch_worker_upload_bytes_total"]
    assert not any("4711" in name for name in after)


def test_killing_the_zygote_is_an_infrastructure_failure_and_leaves_nothing(shared: Worker) -> None:
    note = shared.root / "zygote"
    shared.driver.offer(shared.trial("hang", params={"note": str(note)}))
    until(lambda: note.exists() and len(note.read_text().split()) == 2)
    zygote = next(pid for pid in shared.below() if _parent(pid) == shared.pid)
    os.kill(zygote, signal.SIGKILL)
    outcome = shared.driver.result().outcome
    assert outcome.failure is FailureClass.INFRASTRUCTURE
    assert not any(alive(int(pid)) for pid in note.read_text().split())
    assert shared.run("succeed").state is TrialState.SUCCEEDED


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
