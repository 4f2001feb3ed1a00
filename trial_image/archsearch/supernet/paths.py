"""What single paths of a supernet cost. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from archsearch.errors import UserError
from archsearch.evaluate.measuring import multiply_adds, parameters
from archsearch.nn import fix
from archsearch.space import Rng
from archsearch.supernet.checks import unmixable
from archsearch.supernet.costs import Costs, costs_of

if TYPE_CHECKING:
    from archsearch.evaluate.measuring import Inputs
    from archsearch.supernet.network import Supernet

_PROBES = 4


class PathCosts:
    """The whole network's params, macs or flops for any architecture, in microseconds where these add up.

    Where the costs of the candidates, counted once, give the exact cost of some random architectures (chains of blocks,
    cells whose choices do not change shapes), they are added up; else each architecture is fixed and counted.

    Args:
        metric: params, macs or flops.
        inputs: what one input is; not needed for params.

    Raises:
        UserError: the shape of one input is needed and not known.
    """

    def __init__(self, supernet: Supernet, metric: str, inputs: Inputs | None, *, device: str) -> None:
        if inputs is None and metric != "params":
            raise UserError(f"the cost {metric} needs the shape of one input; give modelSpace.python.inputShape")
        self._metric, self._inputs = metric, inputs
        self._shadow = copy.deepcopy(supernet.model).to("meta")
        self._table: Costs | None = None
        self._base = 0.0
        if unmixable(supernet.space.choices):
            return
        table = costs_of(metric, supernet, inputs, device=device)
        probes = [supernet.space.sample(Rng(number).fork("path costs")) for number in range(_PROBES)]
        rests = {self._counted(probe) - table.of(probe) for probe in probes}
        if len(rests) == 1:
            self._table, self._base = table, rests.pop()

    def __call__(self, path: Mapping[str, Any]) -> float:
        return self._counted(path) if self._table is None else self._base + self._table.of(path)

    def _counted(self, path: Mapping[str, Any]) -> float:
        plain = fix(self._shadow, path)
        if self._metric == "params" or self._inputs is None:
            return float(parameters(plain))
        return float(multiply_adds(plain, self._inputs)) * (2.0 if self._metric == "flops" else 1.0)
