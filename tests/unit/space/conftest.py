from __future__ import annotations

import pytest

from archsearch.space import Categorical, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.fixture
def nasbench201() -> SearchSpace:
    edges = [f"edge_{source}_{target}" for target in range(1, 4) for source in range(target)]
    return SearchSpace([Categorical(edge, OPERATIONS) for edge in edges], canonicaliser="nasbench201")
