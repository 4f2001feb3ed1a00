"""Random state of a trial: seeded once, saved and restored bit by bit. Imports torch."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import Tensor


def seed_everything(seed: int, device: str = "cpu") -> None:
    """Seed Python, NumPy and torch; on CUDA choose deterministic kernels where there are any."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # user code draws from the global state
    torch.manual_seed(seed)
    if device != "cpu":
        # cuBLAS reads this when its first handle is made, which no forked child has done yet.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state(device: str) -> tuple[dict[str, Tensor], JsonObject]:
    """The global random states as tensors and JSON, for a checkpoint."""
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    python = random.getstate()
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "random.python": torch.tensor(python[1], dtype=torch.int64),
    }
    if device != "cpu":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    state: JsonObject = {
        "numpy": [int(numpy["state"]["pos"]), int(numpy["has_gauss"]), float(numpy["gauss"])],
        "python": [python[0], python[2]],
    }
    return tensors, state


def restore_random_state(tensors: dict[str, Tensor], state: JsonObject, device: str) -> None:
    """Continue from what `random_state` gave. A checkpoint from another kind of device keeps its host states only."""
    torch.set_rng_state(tensors["random.torch"])
    words = tensors["random.numpy"].numpy().astype(np.uint32)
    position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", words, position, has_gauss, gauss))
    version, spare = state["python"]
    python: tuple[Any, ...] = (version, tuple(tensors["random.python"].tolist()), spare)
    random.setstate(python)
    if device != "cpu" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
