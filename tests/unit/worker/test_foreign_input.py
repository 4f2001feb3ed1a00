"""Weights that lie in another run's folder: fetched from where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsearch.errors import StoreError
from archsearch.protocol import Assignment, Fence, StorageRef
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective, ZooSpace
from archsearch.store import open_store, split_key
from archsearch.store.checkpoint import upload_directory, write_manifest
from archsearch.worker.metrics import WorkerMetrics
from archsearch.worker.settings import Secrets
from archsearch.worker.storage import Stores, TrialStorage


@pytest.fixture
def storage(tmp_path: Path) -> TrialStorage:
    assignment = Assignment(
        experiment="second",
        kind="export",
        folder="export",
        model_space=ModelSpace(zoo=ZooSpace(name="nasbench201")),
        evaluator=EvaluatorSpec(name="classification"),
        objectives=[Objective(metric="accuracy")],
        storage=StorageRef(uri=str(tmp_path / "second")),
    )
    for run in ("first", "second"):
        made = tmp_path / f"made-{run}"
        made.mkdir()
        (made / "tensors.safetensors").write_text(run)
        write_manifest(made)
        upload_directory(open_store(str(tmp_path / run)), "trials/3/weights/1-2", made)
    return TrialStorage(
        assignment,
        Fence(epoch=1, counter=1),
        Stores(Secrets("token", {}), tmp_path / "inputs"),
        WorkerMetrics("1", "cpu"),
    )


async def test_each_is_fetched_from_its_own_run(tmp_path: Path, storage: TrialStorage) -> None:
    own = await storage.fetch_input("trials/3/weights/1-2")
    assert (own / "tensors.safetensors").read_text() == "second"
    other = await storage.fetch_input(f"{tmp_path}/first/trials/3/weights/1-2")
    assert (other / "tensors.safetensors").read_text() == "first"
    with pytest.raises(StoreError, match="1-3"):
        await storage.fetch_input(f"{tmp_path}/first/trials/3/weights/1-3")


def test_keys_are_split_into_store_and_key() -> None:
    assert split_key("trials/3/weights/1-2/") == ("", "trials/3/weights/1-2")
    assert split_key("s3://bucket/run/trials/3/weights/1-2") == ("s3://bucket/run/trials/3/weights", "1-2")
    assert split_key("/runs/first/best") == ("/runs/first", "best")
    assert split_key("") == ("", "")
