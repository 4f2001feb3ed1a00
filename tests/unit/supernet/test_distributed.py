"""Ranks of one trial: two processes that meet on this machine, and one process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.ranks import LEARNERS, trained

from archsearch.errors import PeerLost
from archsearch.protocol import Member
from archsearch.supernet import distributed
from archsearch.supernet.workbench import batches
from archsearch.worker.linux import free_port

SUPPORT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What two ranks found; rank 1 ends first, while rank 0 still calls it."""
    port = free_port("127.0.0.1")
    environment = os.environ | {"PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.ranks", str(rank), "2", str(port), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        return [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_both_know_the_world_and_share_what_all_have(ranks: list[dict[str, Any]]) -> None:
    assert [each["world"] for each in ranks] == [[0, 2], [1, 2]]
    assert [each["share"] for each in ranks] == [[0, 2, 4, 6], [1, 3, 5]]


def test_averaged_gradients_are_those_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    for each in ranks:
        assert each["distance"] < 1e-15


def test_gradients_of_all_types_go_in_buckets_and_missing_ones_stay_missing(ranks: list[dict[str, Any]]) -> None:
    wanted = [-1.0 if index == 4 else index + 0.5 for index in range(9)]
    assert [each["buckets"] for each in ranks] == [wanted, wanted]


def test_other_paths_on_other_ranks_are_an_error_on_both(ranks: list[dict[str, Any]]) -> None:
    for each in ranks:
        assert "the sampled path must be the same on every rank" in each["unlike"]


def test_statistics_are_averaged_and_counters_left(ranks: list[dict[str, Any]]) -> None:
    assert [each["statistics"] for each in ranks] == [[[0.5] * 3, [0]], [[0.5] * 3, [1]]]


def test_rank_0_tells_what_it_drew(ranks: list[dict[str, Any]]) -> None:
    assert [each["object"] for each in ranks] == [{"path": [0, None]}] * 2
    assert [each["mean"] for each in ranks] == [0.5, 0.5]
    assert [each["gathered"] for each in ranks] == [[[0, 7], [1, 7]]] * 2


def test_a_rank_that_has_to_go_takes_the_others_along_and_rank_0_saves(ranks: list[dict[str, Any]]) -> None:
    assert [each["agreement"] for each in ranks] == [{"snapshots": 1, "left": True}] * 2
    assert [each["checkpoints"] for each in ranks] == [["00000001"], []]
    assert [each["sent"] for each in ranks] == [["checkpoint"], []]


def test_rank_0_alone_reports(ranks: list[dict[str, Any]]) -> None:
    assert [each["points"] for each in ranks] == [1, 0]


def test_a_rank_that_ends_is_missed_at_once(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["lost"].startswith("rank 0 of 2 lost touch with the others while all waited for each other")


@pytest.mark.parametrize("name", LEARNERS)
def test_two_ranks_train_the_supernet_that_one_process_trains(
    ranks: list[dict[str, Any]], folder: Path, tmp_path: Path, name: str
) -> None:
    first, second = (load_file(folder / str(rank) / f"{name}.safetensors") for rank in range(2))
    alone = trained(tmp_path, name)
    assert first.keys() == second.keys() == alone.keys()
    assert all(first[name].equal(second[name]) for name in first), "all ranks have the same bits"
    for key, value in alone.items():
        assert torch.allclose(first[key], value, rtol=1e-4, atol=1e-5), key


def test_one_process_alone_does_nothing() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    value = (1, 2)
    distributed.average_gradients([parameter])
    distributed.average_tensors([parameter.grad])
    distributed.barrier()
    distributed.stop()
    assert distributed.world() == distributed.World(0, 1)
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert distributed.broadcast_object(value) is value
    assert distributed.share(value) is value
    assert distributed.mean(0.1) == 0.1
    assert distributed.gather(parameter)[0] is parameter


def test_nobody_comes() -> None:
    port = free_port("127.0.0.1")
    member = Member(rank=0, ranks=2, master_address="127.0.0.1", master_port=port, attempt="1-1")
    with pytest.raises(PeerLost, match=rf"rank 0 of 2 did not meet the others at 127\.0\.0\.1:{port} within 0 s"):
        distributed._join(member, "cpu", 0.2)
    assert distributed.world().size == 1


def test_a_broken_process_group_is_told_from_other_errors() -> None:
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:56020"
    assert distributed.is_peer_error(RuntimeError(gloo))
    assert distributed.is_peer_error(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert not distributed.is_peer_error(RuntimeError("shape mismatch"))
    assert not distributed.is_peer_error(torch.OutOfMemoryError("gloo/"))


@pytest.mark.parametrize(
    ("count", "size", "one", "two"), [(64, 16, 4, 4), (65, 16, 4, 4), (67, 16, 5, 4), (68, 16, 5, 5)]
)
def test_no_rank_gets_a_batch_of_one(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int, one: int, two: int
) -> None:
    assert batches(count, size) == one
    monkeypatch.setattr(distributed, "world", lambda: distributed.World(0, 2))
    assert batches(count, size) == two
