"""Parameters and FLOPs: no proxies of learning, but what every proxy has to be better than. Imports torch.

White, Khodak, Tu, Shah, Bubeck and Dey, "A deeper look at zero-cost proxies for lightweight NAS" (ICLR blog track
2022), show how often it is not.
"""

from __future__ import annotations

from archsearch.evaluate.measuring import multiply_adds, parameters
from archsearch.evaluate.proxies.probe import Probe


def params(probe: Probe) -> float:
    """Number of parameters, shared ones once."""
    return float(parameters(probe.network))


def flops(probe: Probe) -> float:
    """Twice the multiply-adds of one forward pass, batch of one, in eval mode."""
    return 2.0 * multiply_adds(probe.network, probe.sample.inputs)
