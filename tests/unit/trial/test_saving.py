"""Checkpoints in the background."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from archsearch.store import checkpoint
from archsearch.store.checkpoint import read_checkpoint
from archsearch.trial import saving
from archsearch.trial.saving import Buffers, Saver

SECONDS = 60.0


class Gate:
    """`write_checkpoint` that waits to be let through, and notes who writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self.writing = self.most = 0
        self.threads: set[str] = set()
        self._write = checkpoint.write_checkpoint
        self.error: BaseException | None = None
        monkeypatch.setattr(checkpoint, "write_checkpoint", self)

    def __call__(self, *arguments: Any) -> None:
        self.writing += 1
        self.most = max(self.most, self.writing)
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.open.acquire(timeout=SECONDS)
        self.writing -= 1
        if self.error is not None:
            raise self.error
        self._write(*arguments)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 2), value), "step": torch.tensor(int(value))}


def value_of(folder: Path) -> tuple[float, Any]:
    tensors, scalars = read_checkpoint(folder)
    assert tensors["weight"].unique().numel() == 1
    assert float(tensors["weight"][0, 0]) == float(tensors["step"])
    return float(tensors["step"]), scalars


def test_the_trainer_goes_on_while_one_thread_writes_and_the_newest_waits(tmp_path: Path, gate: Gate) -> None:
    announced: list[str] = []
    before = set(threading.enumerate())  # other tests' contexts may have savers of their own
    saver = Saver(tmp_path, announced.append)
    live = state(1)
    scalars = {"epoch": 1}
    saver.save("1", live, scalars)
    assert gate.entered.acquire(timeout=SECONDS)
    scalars["epoch"] = 9  # what is written is what was there when `save` was called
    for number in (2, 3, 4):
        for tensor in live.values():
            tensor.fill_(number)
        saver.save(str(number), live, {"epoch": number})  # returns, though the first is not written
    for tensor in live.values():
        tensor.fill_(7)
    assert announced == []
    gate.open.release(2)
    saver.wait()
    assert announced == ["1", "4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "4"]
    assert value_of(tmp_path / "1") == (1.0, {"epoch": 1})
    assert value_of(tmp_path / "4") == (4.0, {"epoch": 4})
    assert (gate.most, gate.threads) == (1, {"archsearch-checkpoints"})
    gate.open.release()
    saver.save("5", live, {})
    saver.close()
    assert announced == ["1", "4", "5"]
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("archsearch-c")]


@pytest.mark.parametrize("following", ["save", "wait", "close"])
def test_an_error_comes_up_at_the_next_call_and_once(tmp_path: Path, gate: Gate, following: str) -> None:
    announced: list[str] = []
    saver = Saver(tmp_path, announced.append)
    gate.error = OSError(28, "No space left on device")
    saver.save("1", state(1), {})
    gate.open.release()
    assert gate.entered.acquire(timeout=SECONDS)
    if following == "save":
        with saver._changed:
            saver._changed.wait_for(lambda: not saver._writing, SECONDS)
        with pytest.raises(OSError, match="No space left"):
            saver.save("2", state(2), {})
    else:
        with pytest.raises(OSError, match="No space left"):
            getattr(saver, following)()
    gate.error = None
    gate.open.release()
    if following != "close":
        saver.save("3", state(3), {})
        saver.close()
        assert announced == ["3"]


def test_a_state_that_is_no_json_and_tensors_that_cannot_be_copied_fail_in_the_caller(tmp_path: Path) -> None:
    announced: list[str] = []
    saver = Saver(tmp_path, announced.append)
    with pytest.raises(ValueError, match="not JSON compliant"):
        saver.save("1", state(1), {"loss": float("nan")})
    broken: Any = {"weight": torch.ones(2).to("meta")}
    for _ in range(3):
        with pytest.raises((NotImplementedError, RuntimeError)):
            saver.save("1", broken, {})
    saver.save("2", state(2), {})
    saver.close()
    assert announced == ["2"]


def test_buffers_are_used_again_and_keep_every_form() -> None:
    buffers = Buffers()
    tied = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "plain": torch.randn(4, 5),
        "nhwc": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": torch.randn(6, 6)[:, ::2],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "empty": torch.empty(0, 3),
        "half": torch.randn(3).to(torch.bfloat16),
        "flag": torch.tensor(True),
        "tied": tied,
        "tied.view": tied.view(12),
        "gradient": torch.nn.Parameter(torch.randn(3)),
    }
    buffers.take(tensors)
    first = {name: tensor.data_ptr() for name, tensor in buffers.tensors.items()}
    assert all(torch.equal(buffers.tensors[name], tensor) for name, tensor in tensors.items())
    assert not any(tensor.requires_grad for tensor in buffers.tensors.values())
    assert not {pointer for pointer in first.values() if pointer} & {tensor.data_ptr() for tensor in tensors.values()}
    with torch.no_grad():
        tensors["gradient"] += 1
        tied += 1
    buffers.take(tensors)
    assert all(torch.equal(buffers.tensors[name], tensor) for name, tensor in tensors.items())
    assert {name: tensor.data_ptr() for name, tensor in buffers.tensors.items()} == first
    del tensors["plain"]
    tensors["half"] = torch.randn(7).to(torch.bfloat16)
    buffers.take(tensors)
    assert set(buffers.tensors) == set(tensors)
    assert torch.equal(buffers.tensors["half"], tensors["half"])


def test_two_copy_what_is_large_and_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PART_BYTES", 1000)
    tensors = {str(number): torch.full((100,), float(number)) for number in range(40)}
    met = threading.Barrier(2, timeout=SECONDS)
    copies: list[str] = []
    copy = torch._foreach_copy_

    def counted(*arguments: Any, **options: Any) -> None:
        if len(copies) < 2:
            copies.append(threading.current_thread().name)
            met.wait()  # whoever is first waits for the other
        copy(*arguments, **options)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)
    with ThreadPoolExecutor(1, "helper") as helper:
        buffers = Buffers(helper)
        buffers.take(tensors)
        assert len(set(copies)) == 2
        for tensor in tensors.values():
            tensor.add_(1)
        buffers.take(tensors)
    assert all(torch.equal(buffers.tensors[name], tensor) for name, tensor in tensors.items())


def test_what_was_copied_is_not_kept_alive() -> None:
    buffers = Buffers()
    tensor = torch.ones(3)
    buffers.take({"made for the checkpoint": tensor})
    gone = weakref.ref(tensor)
    del tensor
    assert gone() is None
    buffers.take({"made for the checkpoint": torch.full((5,), 2.0)})  # of another form, perhaps at the same address
    assert buffers.tensors["made for the checkpoint"].tolist() == [2.0] * 5


@pytest.fixture
def slow_helper(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Two cores, and a helper that copies only when it is let."""
    monkeypatch.setattr(saving.os, "sched_getaffinity", lambda pid: {0, 1})
    let, copy = threading.Event(), torch._foreach_copy_

    def slow(*arguments: Any, **options: Any) -> None:
        if threading.current_thread().name.startswith("archsearch-copies"):
            assert let.wait(SECONDS)
        copy(*arguments, **options)

    monkeypatch.setattr(torch, "_foreach_copy_", slow)
    return let


def test_what_stays_as_it_is_is_copied_while_the_trainer_goes_on(tmp_path: Path, slow_helper: threading.Event) -> None:
    announced: list[str] = []
    saver = Saver(tmp_path, announced.append)
    tensors = state(1)
    saver.save("1", tensors, {"at": 1}, later={id(tensors["weight"])})
    tensors["step"].add_(1)  # was copied at once
    assert announced == []
    slow_helper.set()
    saver.settle()
    tensors["weight"].add_(1)
    saver.save("2", tensors, {"at": 2}, later={id(tensor) for tensor in tensors.values()})
    saver.close()  # settles
    assert value_of(tmp_path / "1") == (1, {"at": 1})
    assert value_of(tmp_path / "2") == (2, {"at": 2})
    assert announced == ["1", "2"]


def test_a_snapshot_that_changed_under_the_copy_is_left_out(
    tmp_path: Path, slow_helper: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    announced: list[str] = []
    saver = Saver(tmp_path, announced.append)
    tensors = state(1)
    later = {id(tensors["weight"])}
    for name in ("1", "2"):  # the second one needs no settling any more
        saver.save(name, tensors, {}, later)
        for tensor in tensors.values():
            tensor.add_(1)
        slow_helper.set()
        saver.settle()
    saver.close()
    assert announced == ["2"]
    assert value_of(tmp_path / "2")[0] == 2
    assert [record.message for record in caplog.records] == [
        "checkpoint 1 is left out: tensors changed while they were copied"
    ]


def test_a_copy_that_fails_in_the_background_fails_where_it_is_waited_for(
    tmp_path: Path, slow_helper: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[str] = []
    saver = Saver(tmp_path, announced.append)
    tensors = state(1)
    later = {id(tensors["weight"])}
    slow_helper.set()
    copy = torch._foreach_copy_

    def broken(targets: Any, sources: Any, **options: Any) -> None:
        if sources[0] is tensors["weight"]:
            raise RuntimeError("no memory")
        copy(targets, sources, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "_foreach_copy_", broken)
        for _ in range(3):  # no buffers are lost by it
            saver.save("1", tensors, {}, later)
            with pytest.raises(RuntimeError, match="no memory"):
                saver.settle()
    saver.save("2", tensors, {}, later)
    saver.close()
    assert announced == ["2"]
