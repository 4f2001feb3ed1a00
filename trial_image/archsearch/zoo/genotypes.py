"""Published cells, as their authors printed them: for each node two OPERATION INPUT pairs, separated by semicolons.

The operations are abbreviated: s3 is sep_conv_3x3, d5 dil_conv_5x5, m3 max_pool_3x3, a3 avg_pool_3x3, id skip_connect.
"""

from __future__ import annotations

from typing import Any

from archsearch.zoo.building import Published

SHORT = {
    "id": "skip_connect",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "m3": "max_pool_3x3",
    "a3": "avg_pool_3x3",
    "c7": "conv_7x1_1x7",
}


def genotype(
    normal: str, reduce: str, normal_concat: list[int] | None = None, reduce_concat: list[int] | None = None
) -> dict[str, Any]:
    """The notation {normal, normal_concat, reduce, reduce_concat} of abbreviated cells; default: all nodes merged."""
    cells = {"normal": normal, "reduce": reduce}
    concats = {"normal": normal_concat, "reduce": reduce_concat}
    found: dict[str, Any] = {}
    for kind, text in cells.items():
        words = text.replace(";", " ").split()
        found[kind] = [[SHORT[words[i]], int(words[i + 1])] for i in range(0, len(words), 2)]
        found[f"{kind}_concat"] = concats[kind] or list(range(2, 2 + len(words) // 4))
    return found


_PC_DARTS = Published(
    genotype(
        "s3 1 id 0; s3 0 d3 1; s5 0 s3 1; a3 0 d3 1",
        "s5 1 m3 0; s5 1 s5 2; s3 0 s3 3; s3 1 s3 2",
    ),
    "Xu 2020, PC-DARTS, on CIFAR-10",
)
_PC_DARTS_IMAGENET = Published(
    genotype(
        "id 1 s3 0; s3 0 id 1; s3 1 s3 3; s3 1 d5 4",
        "s3 0 id 1; d5 2 m3 1; s3 2 s3 1; s5 0 s3 3",
    ),
    "Xu 2020, PC-DARTS, on ImageNet",
)
_DARTS_V2 = Published(
    genotype(
        "s3 0 s3 1; s3 0 s3 1; s3 1 id 0; id 0 d3 2",
        "m3 0 m3 1; id 2 m3 1; m3 0 id 2; id 2 m3 1",
    ),
    "Liu 2019, DARTS, second order",
)
_SNAS = Published(
    genotype(
        "s3 0 s3 1; id 0 d3 1; id 0 id 1; id 0 s3 1",
        "m3 0 m3 1; id 2 m3 1; m3 1 id 2; d5 2 m3 0",
    ),
    "Xie 2019, SNAS, mild constraint",
)
_GDAS = Published(
    genotype(
        "id 0 id 1; id 0 s5 2; s3 3 id 0; s5 4 s3 3",
        "s5 0 s3 1; s5 2 s5 1; d5 2 s3 1; s5 0 s5 1",
    ),
    "Dong and Yang 2019, GDAS",
)

DARTS = {
    "DARTS_V2": _DARTS_V2,
    "DARTS_V1": Published(
        genotype(
            "s3 1 s3 0; id 0 s3 1; id 0 s3 1; s3 0 id 2",
            "m3 0 m3 1; id 2 m3 0; m3 0 id 2; id 2 a3 0",
        ),
        "Liu 2019, DARTS, first order",
    ),
    "DARTS": _DARTS_V2,
    "PC_DARTS_cifar": _PC_DARTS,
    "PC_DARTS_imagenet": _PC_DARTS_IMAGENET,
    "PC_DARTS_image": _PC_DARTS_IMAGENET,
    "PC_DARTS": _PC_DARTS,
    "PCDARTS": _PC_DARTS,
    "PDARTS": Published(
        genotype(
            "id 0 d3 1; id 0 s3 1; s3 1 s3 3; s3 0 d5 4",
            "a3 0 s5 1; s3 0 d5 2; m3 0 d3 1; d3 1 d5 3",
        ),
        "Chen 2019, P-DARTS",
    ),
    "SNAS": _SNAS,
    "SNAS_mild": _SNAS,
    "GDAS": _GDAS,
    "GDAS_V1": _GDAS,
    "RobustDARTS": Published(
        genotype(
            "id 1 d3 0; id 2 id 0; id 0 id 2; id 2 id 1",
            "m3 1 m3 0; id 2 m3 1; id 2 m3 0; m3 0 m3 1",
        ),
        "Zela 2020, R-DARTS, as unnas published it",
    ),
    "DrNAS_cifar10": Published(
        genotype(
            "s3 0 s5 1; s3 1 s3 2; id 0 s3 1; s3 2 d5 3",
            "m3 0 s5 1; d5 2 s5 1; s5 1 d5 3; id 4 s5 1",
        ),
        "Chen 2021, DrNAS, on CIFAR-10",
    ),
    "DrNAS_imagenet": Published(
        genotype(
            "s3 1 s3 0; s3 0 s3 1; s3 0 d3 3; id 0 s3 1",
            "m3 0 s3 1; s3 0 id 2; s3 0 s3 2; s3 3 s3 1",
        ),
        "Chen 2021, DrNAS, on ImageNet",
    ),
    "SGAS": Published(
        genotype(
            "s3 0 d3 1; s3 0 s3 1; s5 1 s5 3; id 0 d5 2",
            "m3 0 d5 1; s3 0 id 2; s3 1 id 2; m3 0 m3 1",
        ),
        "Li 2020, SGAS",
    ),
}
DARTS["P_DARTS"] = DARTS["PDARTS"]
DARTS["R_DARTS"] = DARTS["RobustDARTS"]

NASNET = {
    "NASNet_A": Published(
        genotype(
            "s5 1 s3 0; s5 0 s3 0; a3 1 id 0; a3 0 a3 0; s3 1 id 1",
            "s5 1 s7 0; m3 1 s7 0; a3 1 s5 0; id 3 a3 2; s3 2 m3 1",
            [2, 3, 4, 5, 6],
            [4, 5, 6],
        ),
        "Zoph 2018, NASNet-A, as DARTS printed it",
    ),
}
NASNET["NASNet"] = NASNET["NASNet_A"]

AMOEBANET = {
    "AmoebaNet_A": Published(
        genotype(
            "a3 0 m3 1; s3 0 s5 2; s3 0 a3 3; s3 1 id 1; id 0 a3 1",
            "a3 0 s3 1; m3 0 s7 2; s7 0 a3 1; m3 0 m3 1; c7 0 s3 5",
            [4, 5, 6],
            [3, 4, 6],
        ),
        "Real 2019, AmoebaNet-A, as DARTS printed it",
    ),
}
AMOEBANET["AmoebaNet"] = AMOEBANET["AmoebaNet_A"]

_PNAS_CELL = "s5 0 m3 0; s7 1 m3 1; s5 1 s3 1; s3 4 m3 1; s3 0 id 1"
PNAS = {"PNASNet": Published(genotype(_PNAS_CELL, _PNAS_CELL), "Liu 2018, PNASNet-5, one cell for both kinds")}
PNAS["PNASNet_5"] = PNAS["PNAS"] = PNAS["PNASNet"]

ENAS = {
    "ENAS": Published(
        genotype(
            "s3 1 id 1; s5 1 id 0; a3 0 s3 1; s3 0 a3 1; s5 1 a3 0",
            "s5 0 a3 1; s3 1 a3 1; s3 1 a3 1; s5 4 a3 1; s3 5 s5 0",
            [2, 3, 4, 5, 6],
            [2, 3, 6],
        ),
        "Pham 2018, ENAS, micro search space",
    ),
}
ENAS["ENAS_micro"] = ENAS["ENAS"]
