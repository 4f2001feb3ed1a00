"""NASWOT: how differently a network's rectifiers see different inputs. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from archsearch.evaluate.proxies.probe import NotApplicable, Probe

_ATEN = torch.ops.aten
# Activations that are a rectifier or like one: a unit is on where its input is positive.
_RECTIFIERS = frozenset(
    getattr(_ATEN, name)
    for name in (
        *("relu", "relu_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "gelu_"),
        *("silu", "silu_", "hardswish", "hardswish_", "threshold", "threshold_", "_prelu_kernel", "softplus", "mish"),
    )
)


def naswot(probe: Probe) -> float:
    """ln |det K|, K[i, j] the number of units whose on or off is the same for inputs i and j of one batch.

    Mellor, Turner, Storkey and Crowley, "Neural architecture search without training" (ICML 2021), equations 1 and 2.
    What is on is seen where the activation is computed, so functional calls count as modules do; of smooth rectifiers
    (GELU, SiLU, hard-swish) the sign of the input is taken.

    Raises:
        NotApplicable: the network has no rectifiers, or too few for the batch: K is singular.
    """
    inputs = probe.sample.batches[0][0].to(probe.device)
    network = probe.copy()
    with torch.no_grad(), _Codes(len(inputs)) as codes:
        network(inputs)
    if codes.kernel is None:
        raise NotApplicable("the network has no rectifiers")
    values = torch.linalg.eigvalsh(codes.kernel)
    if values[0] <= len(values) * torch.finfo(values.dtype).eps * values[-1]:
        raise NotApplicable("the network's rectifiers do not tell all inputs of the batch apart")
    return float(values.log().sum())


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the kernel over the rectifiers that are computed meanwhile."""

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        self.kernel: Tensor | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "overloadpacket", None) in _RECTIFIERS and args[0].shape[:1] == (self.batch,):
            self._add((args[0] > 0).flatten(1).float())
        return func(*args, **(kwargs or {}))

    def _add(self, on: Tensor) -> None:
        # Both on or both off: c·c' + (1 − c)·(1 − c'), in counts that float32 holds exactly.
        signs = 2.0 * on - 1.0
        same = ((signs @ signs.T).double() + on.shape[1]) / 2.0
        self.kernel = same if self.kernel is None else self.kernel + same
