"""DARTS-PT: it keeps what the supernet misses most, operations first, then edges; resumed to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.edge_cells import EdgeNet
from support.supernets import equal, final, resumed, tiny, trainer_of
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import InputChoice, LayerChoice, describe
from archsearch.protocol import TrialKind
from archsearch.space import Rng, SearchSpace
from archsearch.spec.experiment import Objective
from archsearch.zoo.darts import DARTS
from archsearch_strategies.algorithms.darts import Darts, DartsConfig, DartsTrainer
from archsearch_strategies.algorithms.darts_pt import DartsPTTrainer, in_order, parts, perturbation, rounds
from archsearch_strategies.algorithms.gdas import GdasTrainer
from archsearch_strategies.algorithms.pc_darts import PCDartsTrainer
from archsearch_strategies.strategy import AskTell


def options(space: SearchSpace, of: str = "darts", **changes: Any) -> dict[str, Any]:
    config = DartsConfig(epochs=1, batch_size=32, selection="perturbation", tune_epochs=1)
    found = perturbation(of, config, space).to_json()
    own = {"epochs": 1, "batchSize": 32} | ({"warmupEpochs": 0} if of == "pc-darts" else {})
    return {**found, "options": own, **changes}


def test_the_edges_of_one_name_in_both_cells_are_decided_together_operations_first() -> None:
    space = describe(DARTS(channels=2, cells=3, input_channels=1))
    found = rounds(space)
    assert len(found) == 18  # 14 edges and 4 nodes
    assert ("normal/op_2_0", "reduce/op_2_0") in found
    assert all("input" in name for names in found[14:] for name in names)
    shuffled = in_order(space, Rng(1))
    assert shuffled != found
    assert sorted(shuffled[:14]) == sorted(found[:14])
    assert sorted(shuffled[14:]) == sorted(found[14:])
    assert in_order(space, Rng(1)) == shuffled
    config = DartsConfig(learning_rate=0.03, minimum_learning_rate=0.01)
    made = perturbation("darts", config, space)
    assert (made.epochs, made.learning_rate, made.minimum_learning_rate) == (171, pytest.approx(0.003), 0.003)
    assert all(len(names) == 1 for names in rounds(describe(tiny())))


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


class Planted(nn.Module):
    """The digit shows only behind "useful", and not in the first input."""

    def __init__(self) -> None:
        super().__init__()
        ops = {"loud": Constant(0.5), "useful": nn.Identity(), "mute": Constant(0.0)}
        self.op = LayerChoice(ops, label="op")
        self.pick = InputChoice(3, 2, "sum", label="pick")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.op(x)
        out: Tensor = self.head(self.pick([torch.zeros_like(h), h, 2 * h]))
        return out


def test_it_keeps_what_is_missed_and_not_what_is_large(tmp_path: Path) -> None:
    first: Any = trainer_of(DartsTrainer, {"epochs": 3, "learningRate": 0.05}, tmp_path / "first", build=Planted)
    with torch.no_grad():
        first.alphas["op"].copy_(torch.tensor([2.0, 0.0, 0.0]))
    state, (magnitude,) = final(first)
    assert magnitude.architecture["op"] == "loud"
    config = options(describe(Planted()), epochs=2)
    trainer: Any = trainer_of(DartsPTTrainer, config, tmp_path / "second", build=Planted, source=state)
    whole = trainer.merit()
    without = [trainer.merit({"op": {i}}) for i in range(3)]
    assert without[1] < min(without[0], without[2])
    assert without[1] < whole
    probabilities = trainer.alphas.history()["op"]
    hidden = trainer._mixtures({"op": {1}})["op"].weights.tolist()
    assert hidden == pytest.approx([probabilities[0], 0.0, probabilities[2]])  # the others' weights stay as they are
    assert trainer.decide("op") == (1,)
    worst = max(range(3), key=lambda i: trainer.merit({"pick": {i}}))
    assert trainer.decide("pick") == tuple(i for i in range(3) if i != worst)
    _, (found,) = final(trainer)
    assert found.architecture["op"] == "useful"


def test_what_is_decided_is_followed_by_all_later_steps(tmp_path: Path) -> None:
    source, _ = final(trainer_of(DartsTrainer, {"epochs": 1}, tmp_path / "first", build=lambda: EdgeNet(nodes=1)))
    space = describe(EdgeNet(nodes=1))
    config = options(space)
    trainer: Any = trainer_of(
        DartsPTTrainer, config, tmp_path / "second", build=lambda: EdgeNet(nodes=1), source=source
    )
    assert trainer.order[-1] == ("normal/input_2", "reduce/input_2")
    for epoch, names in enumerate(trainer.order):
        trainer.begin_epoch(epoch)
        assert list(trainer.decisions.made)[-2:] == list(names)
        trainer.step(epoch, 0)
        for name in trainer.decisions.made:
            assert trainer.supernet.mixture(name).chosen == trainer.decisions.made[name]
    (found,) = trainer.finish()
    assert "none" not in found.architecture.values()
    assert found.architecture["normal/input_2"] == (0, 1)


@pytest.mark.parametrize(
    ("of", "kind"), [("gdas", GdasTrainer), ("pc-darts", PCDartsTrainer)], ids=["gdas", "pc-darts"]
)
def test_a_selection_that_was_killed_ends_with_the_same_bits(tmp_path: Path, of: str, kind: Any) -> None:
    def build() -> nn.Module:
        return EdgeNet(nodes=1)

    own = {"epochs": 1} | ({"warmupEpochs": 0, "partialChannels": 2} if of == "pc-darts" else {})
    source, _ = final(trainer_of(kind, own, tmp_path / "first", build=build))
    config = options(describe(build()), of, options=own)
    other = copy.deepcopy(source)  # as each trial reads its own copy
    undisturbed, found = final(trainer_of(DartsPTTrainer, config, tmp_path / "whole", build=build, source=source))
    again, also = resumed(DartsPTTrainer, config, tmp_path, at=5, build=build, source=other)
    assert equal(undisturbed, again)
    assert found == also
    (one,) = found
    assert describe(build()).validate(one.architecture)


def test_it_needs_the_checkpoint_of_a_trainer_of_its_family(tmp_path: Path) -> None:
    space = describe(tiny())
    with pytest.raises(UserError, match="checkpointOf"):
        trainer_of(DartsPTTrainer, options(space), tmp_path / "none")
    (tensors, state), _ = final(trainer_of(DartsTrainer, {"epochs": 1}, tmp_path / "first"))
    foreign = {name: value for name, value in tensors.items() if not name.startswith("@alphas")}
    with pytest.raises(UserError, match="has no alphas"):
        trainer_of(
            DartsPTTrainer,
            options(space),
            tmp_path / "a",
            source=(foreign, {"kept": {"weights": state["kept"]["weights"]}}),
        )
    shrunk = {**tensors, "@alphas.logits.0": torch.zeros(2)}
    with pytest.raises(UserError, match="alphas are not those of darts"):
        trainer_of(DartsPTTrainer, options(space), tmp_path / "b", source=(shrunk, state))
    with pytest.raises(UserError, match="6 rounds of decisions at tuneEpochs 1 need 6 epochs, not 3"):
        trainer_of(DartsPTTrainer, options(space, epochs=3), tmp_path / "c", source=(tensors, state))
    with pytest.raises(UserError, match="'spos' has none"):
        trainer_of(DartsPTTrainer, options(space, of="spos"), tmp_path / "d", source=(tensors, state))


def test_the_strategy_selects_in_a_second_supernet_trial_that_begins_with_the_first() -> None:
    space = describe(tiny())
    chosen = space.sample(Rng(3)).to_json()
    config = DartsConfig(epochs=3, selection="perturbation", tune_epochs=2, model_args={"channels": 2})
    loop = AskTell(Darts(config), space, [Objective(metric="accuracy")])
    payload = {"architectures": [{"architecture": chosen, "score": None}]}
    first = loop.ask()
    assert first is not None
    assert (first.kind, first.params["trainer"]) == (TrialKind.SUPERNET, "darts")
    loop.tell(first, {}, payload=payload)
    second = loop.ask()
    assert second is not None
    assert (second.kind, second.params["trainer"], second.params["checkpointOf"]) == (TrialKind.SUPERNET, "darts-pt", 1)
    assert second.params["modelArgs"] == {"channels": 2}
    made = DartsPTTrainer.Config.model_validate(second.params["config"])
    assert (made.epochs, made.tune_epochs, made.options["selection"]) == (11, 2, "perturbation")
    assert DartsPTTrainer.check(space, made) == []
    loop.tell(second, {}, payload=payload)
    third = loop.ask()
    assert third is not None
    assert third.kind is TrialKind.INHERIT
    assert (third.params["checkpointOf"], third.params["modelArgs"]) == (2, {"channels": 2})
    assert third.architecture == space.validate(chosen)


def test_no_batch_of_one_is_measured() -> None:
    assert [len(each) for each in parts(9, 4)] == [4, 5]
    assert [len(each) for each in parts(1, 4)] == [1]
