"""The cell space of DARTS (Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019)."""

from __future__ import annotations

from archsearch.zoo import genotypes
from archsearch.zoo.cells import CellNetwork


class DARTS(CellNetwork):
    __doc__ = f"""Four nodes of two different inputs each, eight operations an edge, all nodes merged.

    With 36 channels, 20 cells and 10 classes DARTS_V2 has 3,349,342 parameters. {CellNetwork.__doc__}"""

    name = "darts"
    operations = (
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "none",
    )
    standard_nodes = 4
    wiring = "edges"
    merge = "all"
    published = genotypes.DARTS
