"""The cell spaces of NASNet (Zoph 2018, "Learning Transferable Architectures for Scalable Image Recognition"),
AmoebaNet (Real 2019, "Regularized Evolution for Image Classifier Architecture Search") and PNAS (Liu 2018,
"Progressive Neural Architecture Search"), with the evaluation network of DARTS, as its authors compared them.
"""

from __future__ import annotations

from archsearch.zoo import genotypes
from archsearch.zoo.cells import CellNetwork


class NASNet(CellNetwork):
    __doc__ = (
        f"""Five nodes, thirteen operations (Zoph 2018, section 3), the unused nodes merged. {CellNetwork.__doc__}"""
    )

    name = "nasnet"
    operations = (
        "skip_connect",
        "conv_3x1_1x3",
        "conv_7x1_1x7",
        "dil_conv_3x3",
        "avg_pool_3x3",
        "max_pool_3x3",
        "max_pool_5x5",
        "max_pool_7x7",
        "conv_1x1",
        "conv_3x3",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
    )
    published = genotypes.NASNET


class AmoebaNet(CellNetwork):
    __doc__ = (
        f"""Five nodes, eight operations (Real 2019, section 3.1), the unused nodes merged. {CellNetwork.__doc__}"""
    )

    name = "amoebanet"
    operations = (
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
        "avg_pool_3x3",
        "max_pool_3x3",
        "dil_sep_conv_3x3",
        "conv_7x1_1x7",
    )
    published = genotypes.AMOEBANET


class PNAS(CellNetwork):
    __doc__ = f"""Five nodes, eight operations (Liu 2018, section 3.1), all nodes merged. {CellNetwork.__doc__}"""

    name = "pnas"
    operations = (
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
        "conv_7x1_1x7",
        "avg_pool_3x3",
        "max_pool_3x3",
        "dil_conv_3x3",
    )
    merge = "all"
    published = genotypes.PNAS
