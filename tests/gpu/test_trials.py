"""Trial children on a device, forked from the zygote as a worker does it, without a worker's driver and store."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from archsearch.protocol import Assignment, FailureClass, StorageRef, TrialKind, TrialState
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace, Objective
from archsearch.worker.channel import encode
from archsearch.worker.processes import Zygote

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATIENCE_SECONDS = 240.0


def order(directory: Path, number: int, do: str, device: str) -> dict[str, Any]:
    folder = directory / str(number)
    folder.mkdir()
    assignment = Assignment(
        experiment="device",
        kind=TrialKind.EVALUATE,
        number=number,
        folder=f"trials/{number}",
        model_space=ModelSpace.model_validate({"zoo": {"name": "nasbench201"}}),
        evaluator=EvaluatorSpec.model_validate({"name": "classification", "config": {}}),
        objectives=[Objective(metric="accuracy")],
        params={"do": do, "device": device},
        storage=StorageRef(uri=str(directory / "store")),
    )
    return {
        "assignment": assignment.to_json(),
        "directory": str(folder),
        "log": str(folder / "log.txt"),
        "cache": str(directory / "cache"),
        "threads": 1,
        "resume": None,
        "input": None,
        "checkpointSeconds": 60.0,
        "member": None,
        "last": True,
    }


async def results(directory: Path, device: str, todo: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The outcome of each trial, in a child of its own, and the GPU's files that the zygote had open after all."""
    paths = [str(ROOT / part) for part in ("trial_image", "strategies")] + [str(HERE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    zygote = Zygote(environment, directory, "device_trials:run")
    zygote.start()
    outcomes = []
    try:
        for number, do in enumerate(todo, 1):
            child = await asyncio.wait_for(zygote.spawn(), PATIENCE_SECONDS)
            child.writer.write(encode(order(directory, number, do, device)))
            while True:
                line = await asyncio.wait_for(child.reader.readline(), PATIENCE_SECONDS)
                assert line, (directory / str(number) / "log.txt").read_text()
                message = json.loads(line)
                if message["type"] == "result":
                    break
            outcomes.append(message["outcome"])
            await asyncio.wait_for(child.exited, PATIENCE_SECONDS)
            child.close()
        assert zygote._process is not None
        return outcomes, files_of(zygote._process.pid)
    finally:
        await zygote.stop()


def files_of(pid: int) -> list[str]:
    sys.path.insert(0, str(HERE))
    try:
        from device_trials import device_files
    finally:
        sys.path.remove(str(HERE))
    return device_files(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="trial children are forked on Linux")
def test_forked_trials_use_the_device_and_one_that_runs_out_of_memory_spares_the_next(
    device: str, tmp_path: Path
) -> None:
    outcomes, held = asyncio.run(results(tmp_path, device, ["use", "fill", "use"]))
    first, failed, last = outcomes
    assert held == []  # the process that all are forked from has never opened the device
    for outcome in (first, last):
        assert outcome["state"] == TrialState.SUCCEEDED, outcome
        assert outcome["payload"]["sum"] == 1024.0**3
        assert outcome["payload"]["begunBefore"] is False
        assert outcome["payload"]["begun"] is (device == "cuda")
    assert first["payload"]["pid"] != last["payload"]["pid"]
    assert failed["state"] == TrialState.FAILED
    assert failed["failure"] == FailureClass.OUT_OF_MEMORY
    assert "out of memory" in failed["message"]
    used = first["resources"]
    assert used["wallSeconds"] > 0
    if device == "cuda":
        import torch

        assert used["gpuSeconds"] == used["wallSeconds"]
        assert used["peakGpuMemoryBytes"] >= 2 * 4 * 1024**2
        assert used["device"] == torch.cuda.get_device_name()
    else:
        assert used["device"] == "cpu"
        assert "gpuSeconds" not in used
