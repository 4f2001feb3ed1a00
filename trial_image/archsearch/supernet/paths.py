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
from archsearch.supernet.costs import Costs, Penalties, build_penalties, costs_of

if TYPE_CHECKING:
    from archsearch.evaluate.measuring import Inputs
    from archsearch.supernet.network import Supernet
    from archsearch.supernet.options import SupernetConfig
    from archsearch.supernet.workbench import Workbench

_PROBES, _SAMPLES = 4, 16


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


class PathPenalties:
    """The penalties of a configuration for an algorithm that samples architectures.

    Of layer and input choices what the candidates cost is added up; where values are chosen (widths, kernels) the whole
    network is counted, each architecture once.

    Raises:
        UserError: a latency where values are chosen: no table of candidates could tell it. See also `costs_of`.
    """

    def __init__(self, config: SupernetConfig, supernet: Supernet, bench: Workbench) -> None:
        self._space = supernet.space
        self._known: dict[str, float] = {}
        self._terms: list[tuple[PathCosts, float, float]] = []
        self._added: Penalties | None = None
        if not unmixable(supernet.space.choices):
            self._added = build_penalties(config, supernet, bench)
            return
        for penalty in config.penalties:
            if penalty.metric == "latencyMs":
                raise UserError(
                    "a penalty on latencyMs adds up what candidates take, and this space chooses values too: take "
                    "macs, flops or params, or a layer choice in place of each value"
                )
            cost = PathCosts(supernet, penalty.metric, bench.inputs, device=bench.device)
            samples = [cost(supernet.space.sample(Rng(number).fork("penalties"))) for number in range(_SAMPLES)]
            self._terms.append((cost, penalty.weight, penalty.reference or max(sum(samples) / _SAMPLES, 1e-12)))

    def of(self, architecture: Mapping[str, Any]) -> float:
        """The penalty of one architecture: the sum of ``weight * cost / reference``."""
        if self._added is not None:
            return self._added.of(architecture)
        if not self._terms:
            return 0.0
        key = self._space.hash(architecture)
        if key not in self._known:
            self._known[key] = sum(weight * cost(architecture) / reference for cost, weight, reference in self._terms)
        return self._known[key]
