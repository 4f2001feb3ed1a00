"""Parameters and multiply-adds of a network, without running it on data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """What a network is made of and what one example costs it.

    Attributes:
        params: all parameters, shared ones once.
        macs: multiply-adds of convolutions and matrix products (attention's and recurrent layers' included) for one
            example, as torch's own counter counts them.
    """

    params: int
    macs: int

    @property
    def flops(self) -> int:
        """Twice the multiply-adds."""
        return 2 * self.macs


def count(network: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> Counts:
    """Count on a copy on the meta device: no arithmetic, and the network stays as it is.

    Args:
        network: a plain network; counted in eval mode, so that heads used only in training cost no multiply-adds.
        input_shape: of one example.
        dtype: of the input. Default: what the network says in ``input_dtype``, else float32.
    """
    kind = dtype or getattr(network, "input_dtype", None) or torch.float32
    shadow = copy.deepcopy(network).to("meta").eval()
    example = torch.zeros((1, *input_shape), dtype=kind, device="meta")
    # The counter does not know every fused attention; plain matrix products it does.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad(), torch.device("meta"):
        shadow(example)
    return Counts(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2)
