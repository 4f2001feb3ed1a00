"""What an architecture costs in expectation: a table of what each candidate costs, weighed by probabilities.
Imports torch."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from archsearch.errors import UserError
from archsearch.nn.mutables import LayerChoice
from archsearch.space import Categorical, Choice, Subset
from archsearch.supernet import distributed
from archsearch.supernet.network import Mixture, Supernet

if TYPE_CHECKING:
    from archsearch.evaluate.measuring import Inputs
    from archsearch.supernet.options import SupernetConfig
    from archsearch.supernet.workbench import Workbench

REPEATS, WARM_UP = 15, 3
Measure = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], float]


@dataclass(frozen=True)
class Costs:
    """One metric of every candidate of every layer choice, over all places that the choice decides.

    Attributes:
        metric: params, macs, flops or latencyMs.
        table: (number of options,) by the choice's name.
    """

    metric: str
    choices: Mapping[str, Choice]
    table: Mapping[str, Tensor]

    def expected(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The expected cost of all choices together (what no choice decides is left out), differentiable (Cai 2019,
        equation 7): sum over choices and candidates of P(choice exists) * p(candidate) * cost.

        Args:
            probabilities: (number of options,) by choice; those of input choices may be missing: then all inputs are as
                likely as each other.
        """
        total = torch.zeros((), device=next(iter(probabilities.values())).device)
        exists: dict[str, Tensor] = {}
        for name, choice in self.choices.items():
            exists[name] = _exists(choice, self.choices, probabilities, exists, total)
            if name in self.table:
                total = total + exists[name] * (probabilities[name] * self.table[name].to(total.device)).sum()
        return total

    def of(self, architecture: Mapping[str, Any]) -> float:
        """The cost of one architecture's choices."""
        return sum(
            float(self.table[name][self.choices[name].options.index(decision)])
            for name, decision in architecture.items()
            if name in self.table
        )


def _exists(
    choice: Choice,
    choices: Mapping[str, Choice],
    probabilities: Mapping[str, Tensor],
    exists: Mapping[str, Tensor],
    like: Tensor,
) -> Tensor:
    """How likely a choice is active: its alternatives exclude each other, a term's choice exists by its own chance."""
    if not choice.when:
        return torch.ones_like(like)
    total = torch.zeros_like(like)
    for terms in choice.when:
        part = torch.ones_like(like)
        for term in terms:
            above = choices[term.choice]
            part = part * exists[term.choice] * _holds(above, term.values, probabilities.get(term.choice), like)
        total = total + part
    return total.clamp(max=1.0)


def _holds(choice: Choice, values: Sequence[Any], own: Tensor | None, like: Tensor) -> Tensor:
    if own is None:
        count = choice.choose if isinstance(choice, Subset) and choice.choose else len(choice.options) / 2
        return torch.full_like(like, min(1.0, len(values) * count / len(choice.options)))
    picked = own[[choice.options.index(value) for value in values]].sum()
    if isinstance(choice, Subset) and choice.choose:
        picked = picked * choice.choose
    return picked.clamp(max=1.0)


def costs_of(metric: str, supernet: Supernet, inputs: Inputs | None, *, device: str, latency_table: str = "") -> Costs:
    """The table of a metric for a supernet: counted, measured on `device` (of several ranks on rank 0's), or read.

    Args:
        metric: params, macs, flops or latencyMs.
        inputs: what one input is; not needed for params and for a table that is read.
        latency_table: path of a JSON file ``{CHOICE: {CANDIDATE: milliseconds}}`` for latencyMs; empty: measured.

    Raises:
        UserError: the table misses a choice or a candidate (it names the first), or the shape of inputs is not known.
    """
    layers = {n: c for n, c in supernet.choices.items() if isinstance(c, Categorical) and n in supernet.layers}
    if metric == "latencyMs" and latency_table:
        return Costs(metric, supernet.choices, read_table(latency_table, layers))
    if metric == "params":
        table = {
            name: torch.tensor(
                [float(sum(_own_parameters(place[i]) for place in places)) for i in range(len(choice.options))]
            )
            for name, choice in layers.items()
            for places in [supernet.layers[name]]
        }
        return Costs(metric, supernet.choices, table)
    if inputs is None:
        raise UserError(f"the cost {metric} needs the shape of one input; give modelSpace.python.inputShape")
    measure = _milliseconds(device) if metric == "latencyMs" else _multiply_adds(2.0 if metric == "flops" else 1.0)
    table = _measured(supernet, layers, inputs, device, measure)
    if metric == "latencyMs":  # ranks that measured each its own would part ways
        agreed = distributed.broadcast_object({name: costs.tolist() for name, costs in table.items()})
        table = {name: torch.tensor(costs) for name, costs in agreed.items()}
    return Costs(metric, supernet.choices, table)


def read_table(path: str, choices: Mapping[str, Choice]) -> dict[str, Tensor]:
    """A latency table for these choices.

    Raises:
        UserError: no such file, no such form, a missing choice or candidate, a value that is no number from 0 on.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the latency table {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"the latency table {path} is no object {{CHOICE: {{CANDIDATE: milliseconds}}}}")
    table: dict[str, Tensor] = {}
    for name, choice in choices.items():
        row = found.get(name)
        if not isinstance(row, dict):
            raise UserError(
                f"the latency table {path} has no entry for choice {name!r}; it has {', '.join(found)[:200]}"
            )
        values = []
        for option in choice.options:
            value = row.get(str(option))
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UserError(
                    f"the latency table {path} has for candidate {option!r} of choice {name!r} {value!r}; expected "
                    "milliseconds from 0 on"
                )
            values.append(float(value))
        table[name] = torch.tensor(values)
    return table


def _own_parameters(module: nn.Module) -> int:
    """Those of a candidate, but for what is below choices within it: these count as their own."""
    if isinstance(module, LayerChoice):
        return 0
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return own + sum(_own_parameters(child) for child in module.children())


def _measured(
    supernet: Supernet, layers: Mapping[str, Choice], inputs: Inputs, device: str, measure: Measure
) -> dict[str, Tensor]:
    """Every candidate on the inputs that its place sees in a forward pass of all candidates, of a batch of one."""
    model = supernet.model
    training = [module for module in model.modules() if module.training]
    seen: dict[int, tuple[LayerChoice, tuple[Any, ...], dict[str, Any]]] = {}
    supernet.observe = lambda choice, args, kwargs: seen.setdefault(id(choice), (choice, args, kwargs))
    model.eval()
    try:
        with torch.no_grad():
            supernet.mix(
                {
                    name: Mixture(
                        tuple(range(len(c.options))), torch.full((len(c.options),), 1 / len(c.options), device=device)
                    )
                    for name, c in layers.items()
                }
            )
            model(inputs.example().to(device))
            supernet.observe = None
            first = {name: Mixture((0,)) for name in layers}
            supernet.mix(first)
            totals: dict[tuple[int, int], float] = {}
            for key, (place, args, kwargs) in seen.items():
                for i in range(len(place)):
                    totals[key, i] = measure(place[i], args, kwargs)
    finally:
        supernet.observe = None
        for module in training:
            module.training = True
    table = {name: torch.zeros(len(choice.options)) for name, choice in layers.items()}
    for (key, i), total in totals.items():
        place = seen[key][0]
        below = [each for each in place[i].modules() if isinstance(each, LayerChoice) and id(each) in seen]
        direct = [
            each for each in below if not any(each is not other and each in set(other.modules()) for other in below)
        ]
        table[supernet.name(place)][i] += total - sum(totals[id(each), 0] for each in direct)
    return table


def _multiply_adds(factor: float) -> Measure:
    def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            module(*args, **kwargs)
        return float(factor * (counter.get_total_flops() // 2))

    return measure


def _milliseconds(device: str) -> Measure:
    def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        times = []
        for repeat in range(WARM_UP + REPEATS):
            start = time.perf_counter()
            module(*args, **kwargs)
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat >= WARM_UP:
                times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    return measure


def build_penalties(
    config: SupernetConfig, supernet: Supernet, bench: Workbench, probabilities: Mapping[str, Tensor] | None = None
) -> Penalties:
    """The penalties that a configuration asks for.

    Args:
        probabilities: at the start of the search; by default all options of a choice are as likely.

    Raises:
        UserError: see `costs_of`.
    """
    even = {n: torch.full((len(c.options),), 1 / len(c.options)) for n, c in supernet.choices.items()}
    costs: dict[str, Costs] = {
        penalty.metric: costs_of(
            penalty.metric, supernet, bench.inputs, device=bench.device, latency_table=config.latency_table
        )
        for penalty in config.penalties
    }
    return Penalties(config.penalties, costs, even if probabilities is None else probabilities)


class Penalties:
    """The penalties of a configuration, as one term of the architecture's loss.

    Args:
        costs: by metric.
        probabilities: at the start of the search, which give the references that are not named.
    """

    def __init__(
        self, penalties: Sequence[Any], costs: Mapping[str, Costs], probabilities: Mapping[str, Tensor]
    ) -> None:
        self._terms: list[tuple[Costs, float, float]] = []
        for penalty in penalties:
            found = costs[penalty.metric]
            reference = penalty.reference or float(found.expected(probabilities).detach())
            self._terms.append((found, penalty.weight, max(reference, 1e-12)))

    def of(self, architecture: Mapping[str, Any]) -> float:
        """The penalty of one architecture."""
        return sum(weight * found.of(architecture) / reference for found, weight, reference in self._terms)

    def __bool__(self) -> bool:
        return bool(self._terms)

    def loss(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The sum of ``weight * expected / reference``; there must be a term."""
        terms = [weight * found.expected(probabilities) / reference for found, weight, reference in self._terms]
        return torch.stack(terms).sum()

    def expectations(self, probabilities: Mapping[str, Tensor]) -> dict[str, float]:
        """What each metric is expected to be, for reports: expectedParams and so on."""
        return {
            f"expected{found.metric[0].upper()}{found.metric[1:]}": float(found.expected(probabilities).detach())
            for found, _, _ in self._terms
        }
