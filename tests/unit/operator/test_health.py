"""Health, readiness and the server that tells them."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from archsearch_operator.health import DISAGREEMENTS, SILENT_SECONDS, STALLED_SECONDS, Health, HealthServer
from archsearch_operator.metrics import Metrics
from archsearch_operator.store import Key


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_loop_that_makes_no_step_is_not_alive(clock: Clock) -> None:
    health = Health(clock)
    clock.now += STALLED_SECONDS + 1
    assert "event loop" in health.problem()
    health.beat()
    assert health.problem() == ""


def test_a_quiet_watch_is_healthy_while_lists_agree(clock: Clock) -> None:
    health = Health(clock)
    for _ in range(100):
        clock.now += 45
        health.beat()
        health.relisted("jobs", corrections=0)
    assert health.problem() == ""


def test_a_silent_watch_with_lists_that_disagree_is_dead_until_it_speaks(clock: Clock) -> None:
    health = Health(clock)
    health.watch_event("jobs")
    clock.now += SILENT_SECONDS + 1
    health.beat()
    for _ in range(DISAGREEMENTS - 1):
        health.relisted("jobs", corrections=2)
    assert health.problem() == ""
    health.relisted("jobs", corrections=1)
    assert "watch of jobs" in health.problem()
    health.watch_event("jobs")
    assert health.problem() == ""


def test_corrections_shortly_after_an_event_are_a_race_not_a_dead_watch(clock: Clock) -> None:
    health = Health(clock)
    for _ in range(10):
        health.watch_event("jobs")
        clock.now += 45
        health.beat()
        health.relisted("jobs", corrections=1)
    assert health.problem() == ""


@pytest.fixture
def served() -> Iterator[tuple[Health, str]]:
    experiments = [
        (Key("n", "a"), {"status": {"state": "Running", "search": {"trials": {"running": 2, "succeeded": 7}}}}),
        (Key("n", "b"), {}),
    ]
    health = Health()
    server = HealthServer(0, health, Metrics(lambda: experiments).registry)
    yield health, f"http://127.0.0.1:{server.port}"
    server.close()


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_ready_with_the_lease_and_the_first_list(served: tuple[Health, str]) -> None:
    health, url = served
    assert fetch(url + "/healthz") == (200, "ok\n")
    assert fetch(url + "/readyz") == (503, "another operator holds the Lease\n")
    health.leading(True)
    assert fetch(url + "/readyz") == (503, "the first LIST is not done\n")
    health.relisted("jobs", 0)
    assert fetch(url + "/readyz") == (200, "ok\n")
    assert fetch(url + "/other")[0] == 404


def test_metrics_show_experiments_and_their_trials_by_state(served: tuple[Health, str]) -> None:
    code, text = fetch(served[1] + "/metrics")
    assert code == 200
    assert 'archsearch_operator_experiments{state="Running"} 1.0' in text
    assert 'archsearch_operator_experiments{state="Pending"} 1.0' in text
    assert 'archsearch_experiment_trials{experiment="a",namespace="n",state="succeeded"} 7.0' in text
    assert 'experiment="b"' not in text
