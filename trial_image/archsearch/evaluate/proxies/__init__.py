"""Zero-cost proxies: scores of an untrained network from a batch or two of data.

Every module of this package is one idea, with its paper. Importing the package itself needs no torch.
"""

from __future__ import annotations

from enum import StrEnum


class Proxy(StrEnum):
    """The names under which scores are asked for; larger promises more for each of them."""

    PARAMS = "params"
    FLOPS = "flops"
    GRAD_NORM = "grad_norm"
    SNIP = "snip"
    SYNFLOW = "synflow"
    NASWOT = "naswot"
    JACOV = "jacov"
    ZICO = "zico"


SIZES = (Proxy.PARAMS, Proxy.FLOPS)  # what a proxy has to be better than, shown beside all others

__all__ = ["SIZES", "Proxy"]
