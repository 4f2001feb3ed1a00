"""`archsearch export` from a ledger and weights that were written as a driver and a worker write them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from support.bad_manifests import SOUND
from typer.testing import CliRunner

import archsearch
from archsearch.protocol import TrialKind, TrialState
from archsearch.spec.base import JsonObject
from archsearch.store import open_store
from archsearch.store.checkpoint import upload_directory, write_checkpoint
from archsearch.zoo.nasbench201 import NASBench201
from archsearch_cli.main import app
from archsearch_strategies.driver import records as r
from archsearch_strategies.ledger import Ledger

ARGS = {"channels": 4, "cells": 1, "classes": 10, "input_channels": 1}
SPEC: JsonObject = {**SOUND["spec"], "modelSpace": {"zoo": {"name": "nasbench201", "args": ARGS}}}
KEY = "trials/1/weights/1-1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A run of two trials, the better one without weights; and the network of the other."""
    folder = tmp_path_factory.mktemp("run")
    space = archsearch.describe(NASBench201(**ARGS))
    architecture = space.default()
    network = archsearch.fix(NASBench201(**ARGS), architecture).eval()
    write_checkpoint(folder / "local", network.state_dict(), {})
    store = open_store(str(folder / "store"))
    upload_directory(store, KEY, folder / "local")
    found: list[r.Record] = [r.Experiment(name="digits", spec=SPEC, digest="x", time=1.0)]
    for number, (accuracy, artifacts) in enumerate([(0.8, {"checkpoint": KEY}), (0.9, {})], start=1):
        found.append(
            r.Submitted(
                number=number,
                kind=TrialKind.EVALUATE,
                architecture=architecture.to_json(),
                hash=space.hash(architecture),
            )
        )
        metrics = {"accuracy": accuracy}
        result = r.Result(
            number=number, attempt=1, state=TrialState.SUCCEEDED, metrics=metrics, artifacts=artifacts, time=2.0
        )
        found.append(result)

    async def append() -> None:
        ledger = await asyncio.to_thread(Ledger.open, store, "test")
        await asyncio.gather(*(ledger.append(record.to_json()) for record in found))
        await asyncio.to_thread(ledger.close)

    asyncio.run(append())
    return folder / "store", network


def test_the_best_kept_trial_comes_out_as_a_model(run: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    store, network = run
    result = CliRunner().invoke(app, ["export", str(store), str(tmp_path / "model"), "-o", "json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[0]["number"] == 1
    inputs = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(archsearch.load(tmp_path / "model")(inputs), network(inputs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--number", "2"], "not kept the weights of trial 2"),
        (["--number", "7"], "no trial 7"),
        ([], "not an empty folder"),
    ],
)
def test_what_cannot_be_exported_is_told(
    run: tuple[Path, torch.nn.Module], tmp_path: Path, arguments: list[str], told: str
) -> None:
    target = tmp_path / "model"
    if not arguments:
        target.mkdir()
        (target / "mine").touch()
    result = CliRunner().invoke(app, ["export", str(run[0]), str(target), *arguments])
    assert result.exit_code == 2
    assert told in result.stderr


def test_where_ones_own_code_is_missing_the_option_is_named(tmp_path: Path) -> None:
    spec = {**SPEC, "modelSpace": {"python": {"class": "nowhere_to_be:Net"}}}
    experiment = r.Experiment(name="own", spec=spec, digest="x", time=1.0)
    submitted = r.Submitted(number=1, kind=TrialKind.EVALUATE, architecture={"op": "a"}, hash="1")
    ended = r.Result(
        number=1, state=TrialState.SUCCEEDED, metrics={"accuracy": 1.0}, artifacts={"checkpoint": KEY}, time=2.0
    )
    store = open_store(str(tmp_path / "store"))
    write_checkpoint(tmp_path / "local", {"weight": torch.zeros(2)}, {})
    upload_directory(store, KEY, tmp_path / "local")

    async def append() -> None:
        ledger = await asyncio.to_thread(Ledger.open, store, "test")
        await asyncio.gather(*(ledger.append(record.to_json()) for record in (experiment, submitted, ended)))
        await asyncio.to_thread(ledger.close)

    asyncio.run(append())
    result = CliRunner().invoke(app, ["export", str(tmp_path / "store"), str(tmp_path / "model")])
    assert result.exit_code == 2
    assert "there is no module 'nowhere_to_be'" in result.stderr
    assert "--code names the folder of your modules and data" in result.stderr
