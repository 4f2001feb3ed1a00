"""The benchmark of steps: its figures add up, and what a single path is held against is that path's network."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support.synthetic import images

COMMAND = Path(__file__).parents[3] / "benchmarks" / "oneshot.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(COMMAND.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("oneshot", COMMAND)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMMAND), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )


def test_a_row_has_what_its_header_says(tmp_path: Path) -> None:
    small = ["--steps=2", "--warmup=1", "--threads=1", "--batch=2", "--width=4"]
    shown = run("--space", "nasbench201", "--only", "enas", *small, "--json", str(tmp_path / "rows.json")).stdout
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["step"] > row["weights"] > 0
    assert row["architecture"] > 0
    assert row["ofPlain"] > 0
    assert row["ofNaive"] > 0
    assert row["memoryMB"] > 0
    assert f"{row['weights']:.1f}" in shown.splitlines()[-1]


def test_without_a_gpu_it_is_skipped_with_the_reason() -> None:
    assert "skipped: torch" in run("--device", "cuda").stdout


@pytest.mark.parametrize("space", ["nasbench201", "darts"])
@pytest.mark.parametrize("name", ["spos", "enas", "gdas", "proxylessnas"])
def test_a_path_is_held_against_its_own_network(benchmark: Any, space: str, name: str, tmp_path: Path) -> None:
    options = argparse.Namespace(batch=4, width=4, compile=False, device="cpu")
    case = benchmark.Case(benchmark.builder(space, options, images(64), tmp_path)(name), benchmark.Clock("cpu"))
    update, outputs = case.trainer.weights.step, []

    def before_the_update(loss: Any, done: int) -> Any:
        outputs.append((case.path, case.supernet.model(batch.inputs).detach()))
        return update(loss, done)

    case.trainer.weights.step = before_the_update
    batch = case._batch()
    plain = benchmark.Plain(case.trainer.bench, pools=case.supernet.normalise_pools)
    plain.model.load_state_dict(case.supernet.model.state_dict())
    plain.update = lambda network: None
    case.step(0)
    ((path, expected),) = outputs
    assert path is not None
    network, _ = plain.network(path)
    assert torch.allclose(network(batch.inputs), expected, atol=1e-4)
    assert case.clock.times["step"] >= case.clock.times["weights"]
