"""One of several ranks as a program: python -m support.ranks RANK RANKS PORT FOLDER. Prints what it found as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from archsearch.errors import PeerLost
from archsearch.nn import LayerChoice
from archsearch.protocol import Assignment, Member, StorageRef, TrialKind
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective
from archsearch.supernet import distributed
from archsearch.supernet.trainer import SupernetTrainer
from archsearch.trial.context import TrialContext, TrialReleased
from archsearch_strategies.algorithms.darts import DartsTrainer
from archsearch_strategies.algorithms.gdas import GdasTrainer
from support.supernets import final, trainer_of


class Line:
    """To a supervisor that gives the orders a test wants."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.orders: list[str] = []

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def poll(self) -> list[str]:
        given, self.orders = self.orders, []
        return given


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def gradients(inputs: torch.Tensor, targets: torch.Tensor, *, average: bool) -> list[torch.Tensor]:
    model = network()
    functional.cross_entropy(model(inputs), targets).backward()
    if average:
        distributed.average_gradients(model.parameters())
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def distance(rank: int) -> float:
    """The largest difference between the averaged gradients of all shares and those of the whole batch."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (24,), generator=generator)
    mine = gradients(distributed.share(inputs), distributed.share(targets), average=True)
    whole = gradients(inputs, targets, average=False)
    return max(float((a - b).abs().max()) for a, b in zip(mine, whole, strict=True))


def buckets() -> list[float]:
    """Gradients of several types and of more than a bucket, one of none; the first element of each."""
    distributed.BUCKET_BYTES = 64
    here = distributed.world().rank
    kinds = (torch.float32, torch.bfloat16, torch.float64)
    parameters = [nn.Parameter(torch.zeros(10, dtype=kinds[i % 3])) for i in range(9)]
    for index, each in enumerate(parameters):
        each.grad = None if index == 4 else torch.full_like(each, index + here)
    distributed.average_gradients(parameters)
    return [-1.0 if each.grad is None else float(each.grad[0]) for each in parameters]


def unlike() -> str:
    parameters = [nn.Parameter(torch.zeros(4)) for _ in range(2)]
    parameters[distributed.world().rank % 2].grad = torch.ones(4)
    try:
        distributed.average_gradients(parameters)
    except RuntimeError as error:
        return str(error)
    return ""


def agreement(context: TrialContext, line: Line) -> dict[str, Any]:
    """Rank 1 alone is told to go; both save, or do as if, and leave."""
    calls = []

    def snapshot() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        calls.append(distributed.world().rank)
        return {"x": torch.ones(1)}, {}

    context.checkpoint_point(snapshot)
    if distributed.world().rank == 1:
        line.orders.append("release")
    try:
        context.checkpoint_point(snapshot)
        left = False
    except TrialReleased:
        left = True
    return {"snapshots": len(calls), "left": left}


def plain() -> nn.Module:
    """A space without batch normalization: the mean of the shares' gradients is that of the whole batch."""
    return nn.Sequential(
        nn.Flatten(),
        LayerChoice({"tanh": nn.Sequential(nn.Linear(64, 16), nn.Tanh()), "line": nn.Linear(64, 16)}, label="first"),
        LayerChoice({"one": nn.Linear(16, 10), "two": nn.Sequential(nn.Linear(16, 10), nn.ReLU())}, label="second"),
    )


LEARNERS: dict[str, tuple[type[SupernetTrainer[Any]], dict[str, Any]]] = {
    "gdas": (GdasTrainer, {}),
    "darts": (DartsTrainer, {"order": 2, "learningRate": 0.5, "architectureLearningRate": 0.1}),
}


def trained(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """What a strategy learns of weights and architecture in two epochs, whatever the number of ranks."""
    kind, more = LEARNERS[name]
    (tensors, _), _ = final(
        trainer_of(kind, {"epochs": 2, "batchSize": 16, "clipNorm": 1.0, **more}, folder / name, build=plain)
    )
    return dict(tensors)


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:4])
    folder = Path(sys.argv[4]) / str(rank)
    folder.mkdir()
    torch.set_num_threads(1)
    line = Line()
    member = Member(rank=rank, ranks=ranks, master_address="127.0.0.1", master_port=port, attempt="1-1")
    assignment = Assignment(
        experiment="e",
        kind=TrialKind.SUPERNET,
        number=1,
        folder="trials/1",
        model_space=ModelSpace.model_validate({"zoo": {"name": "nasbench201"}}),
        evaluator=EvaluatorSpec(name="classification"),
        objectives=[Objective(metric="accuracy")],
        storage=StorageRef(uri=str(folder)),
    )
    context = TrialContext(assignment, folder, channel=line, member=member, checkpoint_seconds=3600.0)
    here = distributed.start(context)
    statistics = [torch.full((3,), float(rank)), torch.tensor([rank])]
    distributed.average_tensors(statistics)
    found: dict[str, Any] = {
        "world": [here.rank, here.size],
        "share": distributed.share(list(range(7))),
        "distance": distance(rank),
        "buckets": buckets(),
        "unlike": unlike(),
        "statistics": [statistics[0].tolist(), statistics[1].tolist()],
        "object": distributed.broadcast_object({"path": [rank, None]}),
        "mean": distributed.mean(float(rank)),
        "gathered": [each.tolist() for each in distributed.gather(torch.tensor([rank, 7]))],
        "agreement": agreement(context, line),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("*")),
        "sent": [message["type"] for message in line.sent],
    }
    for name in LEARNERS:
        held = trained(folder / "trial", name)
        save_file({key: each.contiguous() for key, each in held.items()}, folder / f"{name}.safetensors")
    context.report(1, {"loss": 1.0})
    found["points"] = len(line.sent) - len(found["sent"])
    if rank == 0:
        try:
            while True:
                distributed.barrier()
        except PeerLost as error:
            found["lost"] = str(error)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
