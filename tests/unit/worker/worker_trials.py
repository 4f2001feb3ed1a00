"""Trials for the worker's tests, run in trial children: `params.do` says which. Not a test module."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import archsearch.trial
from archsearch.store.checkpoint import write_manifest
from archsearch.trial.context import TrialContext


def result(accuracy: float = 0.5, payload: Any = None, **metrics: float) -> SimpleNamespace:
    return SimpleNamespace(metrics={"accuracy": accuracy, **metrics}, payload=payload)


def run(context: TrialContext) -> SimpleNamespace:
    params = context.assignment.params
    return getattr(Trials, params["do"])(context, params)


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def fork_away(body: Any) -> None:
    """A grandchild of its own session that no parent waits for."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            body()
        os._exit(0)
    os.wait()


def ignore_and_sleep(note: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Path(note).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(3600)
    os._exit(0)


class Trials:
    @staticmethod
    def succeed(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        import torch

        for step in range(3):
            context.report(step, {"loss": 1.0 / (step + 1), "accuracy": step / 3})
        if params.get("weights"):
            context.final_weights({"weight": torch.arange(4.0)}, {"note": "final"})
        print("a line of the log")
        weights = torch.ones(64, 64)
        return result(params.get("value", 0.5), payload={"pid": os.getpid(), "sum": float((weights @ weights).sum())})

    @staticmethod
    def inherit(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """Begins with weights: what they cost, and what writing to them does."""
        from archsearch.store import checkpoint

        def anonymous() -> int:
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.partition("RssAnon:")[2].split()[0])

        hashed = []
        verify, checkpoint.verify_directory = checkpoint.verify_directory, hashed.append
        before = anonymous()
        found = context.load_input()
        assert found is not None
        tensors, _ = found
        total = sum(float(tensor.sum()) for tensor in tensors.values())
        grown = anonymous() - before
        checkpoint.verify_directory = verify
        first = next(iter(tensors.values()))
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "safetensors" in line]
        ranges = [[int(end, 16) for end in each[0].split("-")] for each in maps]
        payload = {
            "total": total,
            "grown": grown,
            "hashed": len(hashed),
            "mapped": any(start <= first.data_ptr() < end for start, end in ranges),
            "path": maps[0][-1] if maps else "",
            "mode": os.stat(maps[0][-1]).st_mode & 0o777 if maps else 0,
        }
        first += 1  # no other trial sees this
        return result(payload=payload)

    @staticmethod
    def curves(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """More architecture weights than one request takes."""
        for step in range(params["points"]):
            weights = {f"choice-{i}-{'x' * 80}": [step / 7, 1 - step / 7] for i in range(4000)}
            context.report(step, {"loss": float(step)}, weights=weights, alarm="it collapses" if step == 2 else "")
        return result()

    @staticmethod
    def look(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """What of the supervisor's can be seen from here."""
        supervisor = params["supervisor"]

        def read(path: str) -> str:
            try:
                return Path(path).read_bytes().decode(errors="replace")
            except OSError as error:
                return f"refused: {type(error).__name__}"

        return result(
            payload={
                "environ": dict(os.environ),
                "zygote": read(f"/proc/{os.getppid()}/environ"),
                "supervisor": read(f"/proc/{supervisor}/environ"),
                "memory": read(f"/proc/{supervisor}/mem"),
                "secrets": os.listdir(params["secrets"]),
                "stdin": os.readlink("/proc/self/fd/0"),
                "session": os.getsid(0) == os.getpid(),
                "directory": os.getcwd() == str(context.directory),
                "threads": __import__("torch").get_num_threads(),
            }
        )

    @staticmethod
    def error(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        raise ValueError("the user's own mistake")

    @staticmethod
    def memory(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        raise MemoryError("no more")

    @staticmethod
    def metric(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(metrics={params["name"]: float(params["number"])}, payload=None)

    @staticmethod
    def unserializable(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        return result(payload={"set": {1, 2}})

    @staticmethod
    def huge(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        return result(payload="x" * (5 * 1024 * 1024))

    @staticmethod
    def leave(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        if params.get("final"):
            archsearch.trial.report_final_result({"default": 0.75, "extra": 2})
        if params["how"] == "exit":
            sys.exit(3)
        os._exit(params.get("code", 0))

    @staticmethod
    def die(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        os.kill(os.getpid(), params["signal"])
        time.sleep(3600)
        return result()

    @staticmethod
    def scribble(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        context._channel._socket.sendall(b"[1, 2\n")  # type: ignore[attr-defined]
        time.sleep(3600)
        return result()

    @staticmethod
    def hang(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """Ignores whatever it is told, like what it leaves behind."""
        note = params["note"]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        fork_away(lambda: ignore_and_sleep(note))
        context.report(0, {"accuracy": 0.25})
        ignore_and_sleep(note)
        return result()

    @staticmethod
    def leftovers(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """Succeeds, and leaves processes of other sessions that ignore SIGTERM."""
        note = params["note"]
        for _ in range(3):
            fork_away(lambda: ignore_and_sleep(note))
        while not Path(note).exists() or len(Path(note).read_text().split()) < 3:
            time.sleep(0.01)
        return result(payload={"pid": os.getpid()})

    @staticmethod
    def poll(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        """A well-behaved training loop that goes on until it is told to end, or `until` exists."""
        import torch

        loaded = context.load_checkpoint()
        step = loaded[1]["step"] if loaded else 0
        start = step
        while True:
            step += 1
            context.report(step, {"accuracy": 0.1, "loss": 1.0 / step})
            if params.get("save") and step == start + 1:
                context.save_checkpoint({"weight": torch.full((3,), float(step))}, {"step": step})
            now = step
            context.checkpoint_point(lambda now=now: ({"weight": torch.full((3,), float(now))}, {"step": now}))
            if params.get("until") and Path(params["until"]).exists():
                weight = loaded[0]["weight"].tolist() if loaded else None
                return result(payload={"start": start, "weight": weight})
            time.sleep(0.01)

    @staticmethod
    def export(context: TrialContext, params: dict[str, Any]) -> SimpleNamespace:
        tensors, state = context.load_input() or ({}, {})
        (context.artifacts / "architecture.json").write_text(json.dumps(state))
        if params.get("link"):
            with contextlib.suppress(FileExistsError):
                (context.artifacts / "passwd").symlink_to("/etc/passwd")
        write_manifest(context.artifacts)
        return SimpleNamespace(metrics={}, payload={"names": sorted(tensors)})


def plain(value: float = 0.5) -> None:
    """Plain trial code, as the default runner calls it."""
    archsearch.trial.report_intermediate_result(value / 2)
    archsearch.trial.report_final_result(value)
