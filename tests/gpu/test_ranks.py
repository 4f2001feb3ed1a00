"""The process group of a rank with a GPU: nccl for tensors on the device, gloo for those in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from archsearch.protocol import Member
from archsearch.supernet import distributed
from archsearch.worker.linux import free_port

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and dist.is_nccl_available()), reason="needs a CUDA device and nccl"
)


@pytest.fixture
def one_rank() -> Iterator[None]:
    """A group of one, which no trial has: nccl is set up as for several."""
    member = Member.model_construct(
        rank=0, ranks=1, master_address="127.0.0.1", master_port=free_port("127.0.0.1"), attempt="1-1"
    )
    distributed._join(member, "cuda", 60.0)
    yield
    distributed.stop()


@pytest.mark.usefixtures("one_rank")
def test_nccl_takes_the_devices_tensors_and_gloo_the_others() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(8, device=device)) for device in ("cuda", "cpu")]
    for each in parameters:
        each.grad = torch.arange(8.0, device=each.device)
    distributed.average_gradients(parameters)
    assert [each.grad.tolist() for each in parameters if each.grad is not None] == [list(map(float, range(8)))] * 2
    assert distributed.gather(torch.ones(2, device="cuda"))[0].device.type == "cuda"
    assert distributed.broadcast_object({"path": [1]}) == {"path": [1]}
    distributed.barrier()
