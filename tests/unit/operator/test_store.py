"""The store of what was seen."""

from typing import Any

from archsearch.spec import names
from archsearch_operator.store import Key, Store, key_of


def experiment(name: str, version: int = 1, uid: str = "u") -> dict[str, Any]:
    return {
        "kind": names.KIND,
        "metadata": {"namespace": "n", "name": name, "resourceVersion": str(version), "uid": uid},
    }


def test_a_job_belongs_to_the_experiment_of_its_label_and_a_stranger_to_none() -> None:
    meta = {"namespace": "n", "name": "x-strategy", "labels": {names.LABEL_EXPERIMENT: "x"}}
    assert key_of({"kind": "Job", "metadata": meta}) == Key("n", "x")
    assert key_of({"kind": "Job", "metadata": {"namespace": "n", "name": "other"}}) is None


def test_an_older_version_changes_nothing() -> None:
    store = Store()
    assert store.observe(experiment("a", 5), now=1.0) == Key("n", "a")
    assert store.observe(experiment("a", 4), now=2.0) is None
    assert store.observe(experiment("a", 5), now=2.0) is None
    assert store.observe(experiment("a", 6), now=3.0) == Key("n", "a")


def test_the_deletion_of_an_earlier_object_of_that_name_is_ignored() -> None:
    store = Store()
    store.observe(experiment("a", 5, uid="new"), now=1.0)
    assert store.remove(experiment("a", 6, uid="old")) is None
    assert store.remove(experiment("a", 7, uid="new")) == Key("n", "a")
    assert len(store) == 0


def test_a_list_adds_changes_and_removes_and_tells_which() -> None:
    store = Store()
    for name in ("stays", "changed", "vanished"):
        store.observe(experiment(name, 1), now=1.0)
    wrong = store.relist([experiment("stays", 1), experiment("changed", 2), experiment("new", 3)], started=2.0, now=3.0)
    assert sorted(key.name for key in wrong) == ["changed", "new", "vanished"]
    assert sorted(key.name for key, _ in store) == ["changed", "new", "stays"]


def test_a_list_that_began_before_an_object_was_seen_neither_removes_nor_reverts_it() -> None:
    store = Store()
    store.observe(experiment("made", 9), now=5.0)
    store.observe(experiment("touched", 9), now=5.0)
    assert store.relist([experiment("touched", 3)], started=4.0, now=6.0) == []
    assert store.get(Key("n", "made")) is not None
    assert store.get(Key("n", "touched")) == experiment("touched", 9)
