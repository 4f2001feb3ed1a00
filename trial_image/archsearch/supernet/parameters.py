"""Architecture parameters: what a differentiable search learns about every choice. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.space import Architecture, ArchitectureError, Categorical, Choice, SearchSpace, Subset
from archsearch.supernet.edges import edges_of

SKIPS = ("skip_connect", "identity", "skip")
ZEROS = ("none", "zero")


class ArchitectureParameters(nn.Module):
    """One vector of logits a choice, apart from the network's weights.

    A layer choice, and an input choice of a fixed number, has the softmax of its logits as probabilities; an input
    choice of a free number an independent sigmoid for each input. In a cell whose edges carry their own operations
    (DARTS) the inputs of a node have no logits of their own unless `inputs` asks for them (PC-DARTS): an edge is as
    strong as its best operation (Liu 2019, section 2.4).

    Args:
        space: whose choices; all of them categorical or subsets.
        deviation: of the normal distribution that logits begin with; 1e-3 in DARTS.
        seed: of that distribution.
        inputs: give the input choices of such cells logits too.
        priors: probabilities by choice and option, in place of equal ones; each sums to 1.

    Raises:
        UserError: a prior for an unknown choice or option, or one that is no distribution.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        deviation: float = 1e-3,
        seed: int = 0,
        inputs: bool = False,
        priors: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        self.edges = edges_of(space)
        self.choices: dict[str, Choice] = {
            choice.name: choice for choice in space.choices if inputs or choice.name not in self.edges
        }
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.ParameterList(
            nn.Parameter(torch.randn(len(choice.options), generator=generator) * deviation)
            for choice in self.choices.values()
        )
        self._at = {name: i for i, name in enumerate(self.choices)}
        self.allowed: dict[str, tuple[bool, ...]] = {
            name: (True,) * len(choice.options) for name, choice in self.choices.items()
        }
        for name, prior in (priors or {}).items():
            self._set_prior(name, prior)

    def _set_prior(self, name: str, prior: Mapping[str, float]) -> None:
        if name not in self.choices:
            raise UserError(f"a prior is given for choice {name!r}, which the space does not have")
        options = [str(option) for option in self.choices[name].options]
        if unknown := sorted(set(prior) - set(options)):
            raise UserError(f"the prior of choice {name!r} names {unknown[0]!r}; it has {', '.join(options)}")
        values = [float(prior.get(option, 0.0)) for option in options]
        if min(values) < 0 or not math.isclose(sum(values), 1.0, abs_tol=1e-3):
            raise UserError(f"the prior of choice {name!r} is no distribution: {dict(prior)}; give parts that sum to 1")
        with torch.no_grad():
            self[name].add_(torch.tensor([math.log(max(value, 1e-6)) for value in values]))

    def __getitem__(self, name: str) -> Tensor:
        """The logits of a choice, (number of options,)."""
        logits: Tensor = self.logits[self._at[name]]
        return logits

    def __contains__(self, name: object) -> bool:
        return name in self._at

    def restrict(self, name: str, allowed: Iterable[int]) -> None:
        """Let only these options (positions) of a choice take part; the others have probability 0.

        Raises:
            UserError: none is left.
        """
        kept = set(allowed)
        if not kept:
            raise UserError(f"choice {name!r} would have no candidate left")
        self.allowed[name] = tuple(i in kept for i in range(len(self.choices[name].options)))

    def left(self, name: str) -> tuple[int, ...]:
        """The positions of the options that may take part."""
        return tuple(i for i, allowed in enumerate(self.allowed[name]) if allowed)

    def masked(self, name: str) -> Tensor:
        """The logits of a choice, minus infinity where it is restricted."""
        logits = self[name]
        if all(self.allowed[name]):
            return logits
        return logits.masked_fill(~torch.tensor(self.allowed[name], device=logits.device), -math.inf)

    def probability(self, name: str, temperature: float = 1.0) -> Tensor:
        """The probabilities of a choice's options, (number of options,), differentiable."""
        scaled = self.masked(name) / temperature
        return scaled.sigmoid() if is_free(self.choices[name]) else scaled.softmax(0)

    def probabilities(self) -> dict[str, Tensor]:
        """Those of every choice."""
        return {name: self.probability(name) for name in self.choices}

    def history(self) -> dict[str, list[float]]:
        """The probabilities as numbers, for the ledger."""
        with torch.no_grad():
            return {name: values.tolist() for name, values in self.probabilities().items()}

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the logits: JSON."""
        return {"allowed": {name: list(values) for name, values in self.allowed.items()}}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `extra_state` gave."""
        self.allowed = {name: tuple(bool(value) for value in values) for name, values in state["allowed"].items()}


def mixture_weights(parameters: ArchitectureParameters, name: str) -> Tensor:
    """What the options that are left of a choice are multiplied with in a mixture of all: their probabilities.

    For k inputs of n k times as much, so that the sum is that of k inputs; not on the edges of a cell, whose strengths
    are normalised to 1 (Xu 2020, equation 2).

    Returns:
        (number of options left,), differentiable.
    """
    choice = parameters.choices[name]
    weights = parameters.probability(name)
    if not all(parameters.allowed[name]):
        weights = weights[list(parameters.left(name))]
    if isinstance(choice, Subset) and choice.choose is not None and name not in parameters.edges:
        weights = weights * choice.choose
    return weights


def is_free(choice: Choice) -> bool:
    """An input choice of any number of inputs."""
    return isinstance(choice, Subset) and choice.choose is None


def derive(space: SearchSpace, probabilities: Mapping[str, Sequence[float]]) -> Architecture:
    """The most probable architecture.

    A layer choice takes its likeliest candidate; on the edges of a DARTS cell never "none" (Liu 2019, section 2.4). An
    input choice takes the likeliest inputs, one of free number all above one half; edges compete by their likeliest
    operation that is not "none", times the input's own probability where there is one. Where a constraint of the space
    forbids that, one choice after another decides otherwise, the least sure first, until none is broken.

    Args:
        probabilities: of every choice's options, in their order.

    Raises:
        ArchitectureError: a constraint of the space forbids what is found, and all that is near; the text names it.
    """
    likeliest = _decisions(space, probabilities, {})
    try:
        return space.validate(likeliest)
    except ArchitectureError:
        if (allowed := _allowed(space, probabilities, likeliest)) is None:
            raise
        return allowed


def _decisions(
    space: SearchSpace, probabilities: Mapping[str, Sequence[float]], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The likeliest decision of each active choice that is not `fixed`."""
    edges = edges_of(space)
    operations = {name for inputs in edges.values() for name in inputs.values()}
    options = {choice.name: choice.options for choice in space.choices}
    decisions: dict[str, Any] = {}
    for choice in space.choices:
        if not choice.active(decisions):
            continue
        if choice.name in fixed:
            decisions[choice.name] = fixed[choice.name]
        elif isinstance(choice, Subset):
            strengths = [
                max(
                    (
                        float(p)
                        for option, p in zip(options[name], probabilities[name], strict=True)
                        if option not in ZEROS
                    ),
                    default=0.0,
                )
                for _, name in sorted(edges.get(choice.name, {}).items())
            ]
            decisions[choice.name] = _inputs(choice, probabilities.get(choice.name), strengths)
        else:
            values = list(probabilities[choice.name])
            decisions[choice.name] = choice.options[_likeliest(choice, values, nothing=choice.name not in operations)]
    return {name: list(d) if isinstance(d, tuple) else d for name, d in decisions.items()}


def _allowed(
    space: SearchSpace, probabilities: Mapping[str, Sequence[float]], likeliest: dict[str, Any]
) -> Architecture | None:
    """The nearest architecture that the constraints allow, change by change; None where none was found."""
    fixed: dict[str, Any] = {}
    decisions, excess = likeliest, _excess(space, likeliest)
    while True:
        changes = [
            (cost, choice.name, decision)
            for choice in space.choices
            if choice.name in decisions
            for cost, decision in _others(choice, probabilities.get(choice.name), decisions[choice.name])
        ]
        nearer: list[tuple[float, dict[str, Any], dict[str, Any], float]] = []
        for cost, name, decision in sorted(changes, key=lambda change: change[0]):
            tried = {**fixed, name: decision}
            changed = _decisions(space, probabilities, tried)
            left = _excess(space, changed)
            if left == 0:
                try:
                    return space.validate(changed)
                except ArchitectureError:  # a predicate of the space's author
                    continue
            if left < excess:
                nearer.append((cost / (excess - left), tried, changed, left))
        if not nearer:
            return None
        _, fixed, decisions, excess = min(nearer, key=lambda each: each[0])


def _excess(space: SearchSpace, decisions: Mapping[str, Any]) -> float:
    """How far decisions are outside the bounds of the constraints, in all."""
    frozen = {name: tuple(each) if isinstance(each, list) else each for name, each in decisions.items()}
    excess = 0.0
    for constraint in space.constraints:
        total = sum(weight for term, weight in constraint.terms if term.holds(frozen.get(term.choice)))
        below = 0.0 if constraint.least is None else constraint.least - total
        above = 0.0 if constraint.most is None else total - constraint.most
        excess += max(0.0, below, above)
    return excess


def _others(choice: Choice, own: Sequence[float] | None, taken: Any) -> list[tuple[float, Any]]:
    """Other decisions of a choice, each with how much less likely it is (a difference of logarithms)."""
    options = choice.options
    logs = [math.log(max(float(p), 1e-30)) for p in own or [0.5] * len(options)]
    if not isinstance(choice, Subset):
        best = logs[options.index(taken)]
        return [(best - log, option) for option, log in zip(options, logs, strict=True) if option != taken]
    chosen = {options.index(each) for each in taken}
    ranked = sorted(range(len(options)), key=lambda i: (-logs[i], i))
    if choice.choose is None:
        odds = [log - math.log(max(1 - math.exp(log), 1e-30)) for log in logs]
        sets = [set(ranked[:count]) for count in range(len(options) + 1)]
    else:
        odds = logs
        sets = [chosen - {out} | {new} for out in chosen for new in ranked if new not in chosen]
    return [
        (sum(abs(odds[i]) for i in kept ^ chosen), [options[i] for i in sorted(kept)])
        for kept in sets
        if kept != chosen
    ]


def _inputs(choice: Subset, own: Sequence[float] | None, edges: Sequence[float]) -> tuple[Any, ...]:
    strengths = [1.0] * len(choice.options) if own is None else [float(value) for value in own]
    if edges:
        strengths = [strength * edge for strength, edge in zip(strengths, edges, strict=True)]
    if choice.choose is None:
        return tuple(option for option, strength in zip(choice.options, strengths, strict=True) if strength > 0.5)
    ranked = sorted(range(len(strengths)), key=lambda i: (-strengths[i], i))[: choice.choose]
    return tuple(choice.options[i] for i in sorted(ranked))


def _likeliest(choice: Choice, values: Sequence[float], *, nothing: bool) -> int:
    candidates = [i for i, option in enumerate(choice.options) if nothing or option not in ZEROS]
    return max(candidates or range(len(values)), key=lambda i: (float(values[i]), -i))


def entropy(values: Sequence[float]) -> float:
    """Of a distribution, as a part of the largest possible: 0 decided, 1 even. Of independent chances their mean."""
    total = sum(values)
    if len(values) < 2 or not math.isclose(total, 1.0, abs_tol=1e-3):
        parts = [-sum(q * math.log2(q) for q in (p, 1 - p) if q > 0) for p in values]
        return sum(parts) / len(parts) if parts else 0.0
    return -sum(p * math.log(p) for p in values if p > 0) / math.log(len(values))


def mean_entropy(history: Mapping[str, Sequence[float]]) -> float:
    """Over all choices."""
    return sum(map(entropy, history.values())) / max(1, len(history))


def skip_ratio(space: SearchSpace, architecture: Mapping[str, Any]) -> float:
    """The part of an architecture's operations that are skip connections, of those choices that offer one."""
    offered = {c.name for c in space.choices if isinstance(c, Categorical) and set(c.options) & set(SKIPS)}
    taken = [architecture[name] for name in architecture if name in offered]
    return sum(decision in SKIPS for decision in taken) / max(1, len(taken))
