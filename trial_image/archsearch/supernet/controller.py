"""A recurrent controller that proposes architectures choice by choice (Pham 2018, section 2.2). Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.errors import UserError
from archsearch.space import Architecture, ArchitectureError, Choice, SearchSpace, Subset

ATTEMPTS = 200


@dataclass(frozen=True)
class Proposal:
    """An architecture, how likely it was, and the entropy of the decisions on the way.

    Attributes:
        log_probability, entropy: scalars, differentiable.
        skips: the chances of all free inputs, (number of them,); None where the space has none.
    """

    architecture: Architecture
    log_probability: Tensor
    entropy: Tensor
    skips: Tensor | None


@dataclass
class _Course:
    """What adds up over the decisions of one proposal."""

    logs: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)
    skips: list[Tensor] = field(default_factory=list)


class Controller(nn.Module):
    """One LSTM; a choice's logits are the products of its state with a learned vector for every option, bounded as
    ``tanh_constant * tanh(logits / temperature)`` (the authors' code).

    Layer choices of the same candidates share these vectors. An input choice of k inputs draws them one after another
    without putting back; one of free number draws every input by itself. What was decided is the next step's input.

    Args:
        space: whose choices; conditions are followed.
        size: of the LSTM's state.
    """

    def __init__(
        self, space: SearchSpace, *, size: int = 64, temperature: float = 5.0, tanh_constant: float = 1.5
    ) -> None:
        super().__init__()
        self.space = space
        self.temperature, self.tanh_constant = temperature, tanh_constant
        self.lstm = nn.LSTMCell(size, size)
        self.start = nn.Parameter(torch.empty(1, size))
        self.queries = nn.Linear(size, size, bias=False)
        groups: dict[tuple[Any, ...], int] = {}
        self._group: dict[str, int] = {}
        for choice in space.choices:
            key = (choice.name,) if isinstance(choice, Subset) else (type(choice).__name__, *choice.options)
            self._group[choice.name] = groups.setdefault(key, len(groups))
        sizes = {self._group[choice.name]: len(choice.options) for choice in space.choices}
        self.options = nn.ParameterList(nn.Parameter(torch.empty(sizes[i], size)) for i in range(len(groups)))
        for parameter in (self.start, *self.options, *self.lstm.parameters(), self.queries.weight):
            nn.init.uniform_(parameter, -0.1, 0.1)

    def propose(self, generator: torch.Generator, *, greedy: bool = False) -> Proposal:
        """Draw one architecture; those that the space's constraints forbid are drawn again.

        Args:
            generator: on the CPU.
            greedy: take the likeliest option of each choice.

        Raises:
            UserError: no allowed one came in 200 attempts.
        """
        fault = ""
        for _ in range(1 if greedy else ATTEMPTS):
            course = _Course()
            decisions = self._decide(generator, greedy, course)
            try:
                architecture = self.space.validate(decisions)
            except ArchitectureError as error:
                fault = str(error)
                continue
            skips = torch.cat(course.skips) if course.skips else None
            return Proposal(architecture, torch.stack(course.logs).sum(), torch.stack(course.entropies).sum(), skips)
        if greedy:  # the likeliest is forbidden: the first allowed draw stands for it
            return self.propose(generator)
        raise UserError(f"the controller drew {ATTEMPTS} architectures that the space forbids, the last: {fault}")

    def _decide(self, generator: torch.Generator, greedy: bool, course: _Course) -> dict[str, Any]:
        decisions: dict[str, Any] = {}
        state: tuple[Tensor, Tensor] | None = None
        last = self.start
        for choice in self.space.choices:
            if not choice.active(decisions):
                continue
            state = self.lstm(last, state)
            vectors = self.options[self._group[choice.name]]
            logits = self.tanh_constant * torch.tanh(vectors @ self.queries(state[0])[0] / self.temperature)
            chosen = self._draw(choice, logits, generator, greedy, course)
            decisions[choice.name] = (
                tuple(choice.options[i] for i in chosen) if isinstance(choice, Subset) else choice.options[chosen[0]]
            )
            last = vectors[list(chosen)].mean(0, keepdim=True) if chosen else self.start
        return {name: list(value) if isinstance(value, tuple) else value for name, value in decisions.items()}

    def _draw(
        self, choice: Choice, logits: Tensor, generator: torch.Generator, greedy: bool, course: _Course
    ) -> Sequence[int]:
        if isinstance(choice, Subset) and choice.choose is None:
            chances = logits.sigmoid()
            noise = torch.full((len(logits),), 0.5) if greedy else torch.rand(len(logits), generator=generator)
            taken = noise.to(logits.device) < chances.detach()
            log, log_not = functional.logsigmoid(logits), functional.logsigmoid(-logits)
            course.logs.append(torch.where(taken, log, log_not).sum())
            course.entropies.append(-(chances * log + (1 - chances) * log_not).sum())
            course.skips.append(chances)
            return [i for i, chosen in enumerate(taken.tolist()) if chosen]
        count = choice.choose or 1 if isinstance(choice, Subset) else 1
        picked: list[int] = []
        for _ in range(count):
            logs = logits.log_softmax(0)
            chances = logs.exp()
            one = (
                int(chances.argmax())
                if greedy
                else int(torch.multinomial(chances.detach().cpu(), 1, generator=generator))
            )
            course.logs.append(logs[one])
            course.entropies.append(-(chances * logs.clamp(min=-1e4)).sum())
            picked.append(one)
            gone = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
            gone[one] = True
            logits = logits.masked_fill(gone, -torch.inf)
        return sorted(picked)
