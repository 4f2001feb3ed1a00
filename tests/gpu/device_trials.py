"""What trial children do in the tests of this folder: `params.do` says which. Not a test module."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from archsearch.trial.context import TrialContext


def run(context: TrialContext) -> SimpleNamespace:
    """`use` the device, or ask for more memory than there is."""
    import torch

    device = str(context.assignment.params["device"])
    begun = torch.cuda.is_initialized()
    if context.assignment.params["do"] == "fill":
        torch.empty(1 << 50, device=device) if device == "cuda" else bytearray(1 << 60)
    x = torch.ones(1024, 1024, device=device)
    payload = {
        "pid": os.getpid(),
        "sum": float((x @ x).sum()),
        "begunBefore": begun,
        "begun": torch.cuda.is_initialized(),
        "files": device_files(os.getpid()),
    }
    return SimpleNamespace(metrics={"accuracy": 0.5}, payload=payload)


def device_files(pid: int) -> list[Any]:
    """The GPU's device files that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("/dev/nvidia"):
            found.append(target)
    return sorted(found)
