"""Trial contexts without a worker, and user modules in a folder of their own."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from archsearch.protocol import Assignment
from archsearch.spec import names
from archsearch.spec.base import JsonObject
from archsearch.trial.context import TrialContext, set_current


class Line:
    """The supervisor's end: keeps what the trial sends, and gives `order` at the n-th poll."""

    def __init__(self, order: str = "", at_poll: int = 0) -> None:
        self.sent: list[JsonObject] = []
        self.polls = 0
        self.order, self.at_poll = order, at_poll

    def send(self, message: JsonObject) -> None:
        self.sent.append(message)

    def poll(self) -> list[str]:
        self.polls += 1
        return [self.order] if self.order and self.polls >= self.at_poll else []

    def points(self) -> list[JsonObject]:
        return [message for message in self.sent if message["type"] == "point"]


MakeContext = Callable[..., TrialContext]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As workers share out a machine; threads that spin for each other on busy cores take a hundred times as long."""
    torch.set_num_threads(1)


@pytest.fixture
def line() -> type[Line]:
    return Line


@pytest.fixture
def make_context(tmp_path: Path) -> Iterator[MakeContext]:
    """Makes contexts; `assignment` fields by keyword, channel, resume and input_checkpoint for the context."""
    counter = itertools.count()

    def make(
        *,
        channel: Any = None,
        resume: Path | None = None,
        input_checkpoint: Path | None = None,
        checkpoint_seconds: float = 3600.0,
        **fields: Any,
    ) -> TrialContext:
        assignment: JsonObject = {
            "experiment": "test",
            "kind": "evaluate",
            "number": 1,
            "folder": "trials/1",
            "model_space": {"zoo": {"name": "nasbench201", "args": {"channels": 4, "cells": 1}}},
            "evaluator": {"name": "classification", "config": {"dataset": "digits", "epochs": 1, "trainSize": 256}},
            "objectives": [{"metric": "accuracy"}],
            "storage": {"uri": str(tmp_path / "run")},
            "seed": 7,
            **fields,
        }
        context = TrialContext(
            Assignment.model_validate(assignment),
            tmp_path / f"trial-{next(counter)}",
            channel=channel,
            resume=resume,
            input_checkpoint=input_checkpoint,
            checkpoint_seconds=checkpoint_seconds,
        )
        set_current(context)
        return context

    yield make
    set_current(None)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a user's module and gives its name; the modules are forgotten afterwards."""
    folder = tmp_path / "user-code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(names.ENV_CODE_DIR, str(folder))
    before = set(sys.modules)
    # Another test's module of the same name and second would otherwise answer from its bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> str:
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and str(file).startswith(str(folder)):
            del sys.modules[name]
