"""One supernet trial in several pods: the ranks train on shares of each batch and stay the same network.

Every rank runs the same code with the same seed on its share of the same order of data (`share`). Gradients of weights
and of architecture parameters are averaged before each update, so that all ranks make the same one. What one rank draws
(a path, a controller's sample) is drawn by rank 0 and told to the others (`broadcast_object`). Batch normalisation
normalises by each rank's own share, as in DistributedDataParallel; its running statistics are averaged
(`average_tensors`) before a rank evaluates or checkpoints, so that rank 0's are those of all the data.

With one rank every function does nothing, or gives back what it was given. All ranks must call the same functions in
the same order. A rank that cannot reach the others raises PeerLost: the whole group then begins again from its last
checkpoint. The sums are made in the order of the ranks' numbers: the same inputs give the same bits.

gloo on CPUs, nccl beside it for CUDA. The rendezvous is torch.distributed's own (a TCPStore at rank 0), under
torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), which a trial child has from its start.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from archsearch.errors import PeerLost

if TYPE_CHECKING:
    from torch import Tensor

    from archsearch.protocol import Member
    from archsearch.trial.context import Flags, TrialContext

RENDEZVOUS_SECONDS = 180.0  # ranks are granted a trial together, but each fetches its checkpoint and data by itself
COLLECTIVE_SECONDS = 1800.0  # a rank that dies is noticed by its lease; this is for ranks that wait for each other
BUCKET_BYTES = 25 * 1024 * 1024
Items = TypeVar("Items", bound="Sequence[Any] | Tensor")


@dataclass(frozen=True)
class World:
    """This process's number among `size`."""

    rank: int = 0
    size: int = 1


_joined: World | None = None


def world() -> World:
    """This rank and their number; rank 0 of 1 before `start` and where a trial runs in one pod."""
    return _joined or World()


def start(context: TrialContext) -> World:
    """Join the other ranks; to be called before anything is drawn or trained. Nothing to do in a trial of one pod.

    From then on `context.checkpoint_point` is a matter of all ranks: they stop, release and checkpoint together.

    Raises:
        PeerLost: the others did not come within `RENDEZVOUS_SECONDS`, or begin from another checkpoint.
    """
    member = context.member
    if member is None:
        return world()
    found = _join(member, context.device, RENDEZVOUS_SECONDS)
    begins = context.resumed_from
    if (first := broadcast_object(begins)) != begins:
        raise PeerLost(f"rank {found.rank} would go on from checkpoint {begins}, rank 0 from {first}")
    context.agree = _agree
    return found


def stop() -> None:
    """Leave the group. The other ranks are not waited for."""
    global _joined  # noqa: PLW0603
    if _joined is not None:
        _joined = None
        dist.destroy_process_group()


def share(items: Items) -> Items:
    """This rank's items of what all have in the same order: every `size`-th, from its own number on.

    The average of the ranks' gradients is that of the whole batch where all shares have the same length: make batches
    that the number of ranks divides.
    """
    here = world()
    return items if here.size == 1 else items[here.rank :: here.size]  # type: ignore[return-value]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each `grad` by its mean over the ranks, in buckets; 16-bit gradients are added up in 32.

    Args:
        parameters: in the same order on every rank. Those without a gradient are passed over, on all ranks alike: with
            a sampled path that is the same everywhere it is.

    Raises:
        PeerLost: another rank cannot be reached.
        RuntimeError: the ranks have gradients of different parameters.
    """
    if _joined is not None:
        average_found([each.grad for each in parameters])


def average_found(gradients: Sequence[Tensor | None]) -> None:
    """As `average_gradients`, of gradients that `torch.autograd.grad` gave: None for those that there are not.

    Raises:
        PeerLost: another rank cannot be reached.
        RuntimeError: the ranks have gradients of different parameters.
    """
    if _joined is None:
        return
    found = [(index, each) for index, each in enumerate(gradients) if each is not None]
    described = ";".join(f"{index}:{gradient.numel()}" for index, gradient in found)
    _check_alike(described, "gradients: the sampled path must be the same on every rank")
    _average([gradient for _, gradient in found])


def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor of a floating type by its mean over the ranks; the others stay as they are.

    Args:
        tensors: of the same shapes, in the same order on every rank, for example the buffers of a network.

    Raises:
        PeerLost: another rank cannot be reached.
    """
    if _joined is not None:
        _average([each for each in tensors if each.is_floating_point()])


def mean(value: float) -> float:
    """The mean of the ranks' numbers, in double precision.

    Raises:
        PeerLost: another rank cannot be reached.
    """
    if _joined is None:
        return value
    held = torch.tensor([value], dtype=torch.float64)
    _average([held])
    return float(held)


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank.

    Args:
        value: JSON; what the other ranks give is not looked at. Tuples arrive as lists.

    Raises:
        PeerLost: another rank cannot be reached.
    """
    if _joined is None:
        return value
    data = json.dumps(value if _joined.rank == 0 else None).encode()
    size = torch.tensor([len(data)])
    with _reaching("an object was broadcast"):
        dist.broadcast(size, src=0)
        if _joined.rank == 0:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        else:
            buffer = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
    return json.loads(buffer.numpy().tobytes())


def gather(tensor: Tensor) -> list[Tensor]:
    """Every rank's tensor, in the order of their numbers, for example the states of their random generators.

    Args:
        tensor: of the same shape and type on every rank.

    Raises:
        PeerLost: another rank cannot be reached.
    """
    if _joined is None:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(_joined.size)]
    with _reaching("tensors were gathered"):
        dist.all_gather(found, tensor.contiguous())
    return found


def barrier() -> None:
    """Wait until every rank is here.

    Raises:
        PeerLost: another rank cannot be reached.
    """
    if _joined is not None:
        with _reaching("all waited for each other"):
            dist.all_reduce(torch.zeros(1))


def is_peer_error(error: BaseException) -> bool:
    """Whether an exception says that a process group broke, in code that calls torch.distributed by itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, PeerLost | dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def _join(member: Member, device: str, seconds: float) -> World:
    global _joined  # noqa: PLW0603
    where = f"{member.master_address}:{member.master_port}"
    try:
        server = TCPStore(
            member.master_address,
            member.master_port,
            member.ranks,
            is_master=member.rank == 0,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
        # Of each attempt its own keys: a process that an earlier one left over meets nobody.
        store = PrefixStore(member.attempt, server)
        store.set(f"here/{member.rank}", "1")
        store.wait([f"here/{rank}" for rank in range(member.ranks)], timedelta(seconds=seconds))
        if device == "cuda":
            torch.cuda.set_device(member.local_rank % torch.cuda.device_count())
        dist.init_process_group(
            _backend(member, device),
            store=store,
            rank=member.rank,
            world_size=member.ranks,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
    except RuntimeError as error:
        raise PeerLost(
            f"rank {member.rank} of {member.ranks} did not meet the others at {where} within {seconds:.0f} s: "
            f"{_first_line(error)}; trial pods must reach each other on every port: look at the namespace's network "
            "policies, and at the other pods' logs"
        ) from error
    _joined = World(member.rank, member.ranks)
    return _joined


def _backend(member: Member, device: str) -> str:
    """nccl wants a GPU for each rank; where ranks share one, gloo moves their tensors through memory."""
    if device == "cpu" or not dist.is_nccl_available():
        return "gloo"
    return "gloo" if member.is_local and torch.cuda.device_count() < member.ranks else "cpu:gloo,cuda:nccl"


def _average(tensors: list[Tensor]) -> None:
    """In place. All buckets are under way before the first is waited for."""
    pending = []
    with _reaching("tensors were averaged"):
        for bucket in _buckets(tensors):
            wide = torch.float64 if bucket[0].dtype is torch.float64 else torch.float32
            flat = torch.cat([each.detach().reshape(-1).to(wide) for each in bucket])
            pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in pending:
            if work is not None:
                work.wait()
            flat.div_(world().size)
            parts = torch.split(flat, [each.numel() for each in bucket])
            for each, part in zip(bucket, parts, strict=True):
                each.detach().copy_(part.view_as(each))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Of one type and device each, in order, at most `BUCKET_BYTES` where one tensor is not larger."""
    waiting: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for each in tensors:
        key, size = (each.dtype, each.device), each.numel() * max(4, each.element_size())
        if key in waiting and sizes[key] + size > BUCKET_BYTES:
            yield waiting.pop(key)
            sizes[key] = 0
        waiting.setdefault(key, []).append(each)
        sizes[key] = sizes.get(key, 0) + size
    yield from waiting.values()


def _check_alike(described: str, what: str) -> None:
    """Buffers of unequal ranks would be added up without a word, or wait for ever. One small message of whole numbers.

    All h are equal exactly where n·Σh² = (Σh)² (Cauchy and Schwarz).
    """
    digest = zlib.crc32(described.encode()) & 0xFFFFF
    sums = torch.tensor([digest, digest * digest])
    with _reaching("gradients were compared"):
        dist.all_reduce(sums)
    if world().size * int(sums[1]) != int(sums[0]) ** 2:
        raise RuntimeError(f"the ranks of this trial have different {what}")


def _agree(flags: Flags) -> Flags:
    """What any rank was told, all do; the interval between checkpoints is that of rank 0's clock."""
    due = flags.due and world().rank == 0
    told = torch.tensor([flags.stop, flags.release, due], dtype=torch.int32)
    with _reaching("the ranks agreed on a checkpoint"):
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
    stop_, release, due = (bool(each) for each in told)
    return type(flags)(stop_, release, due)


@contextmanager
def _reaching(when: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        here = world()
        raise PeerLost(
            f"rank {here.rank} of {here.size} lost touch with the others while {when}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
