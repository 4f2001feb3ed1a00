"""The network that PPO trains. Imports torch: only a running search loads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archsearch.space import Architecture, Rng
from archsearch_strategies.algorithms.slots import Slots, Writer

if TYPE_CHECKING:
    from archsearch_strategies.algorithms.ppo import PPO, Episode

_FORBIDDEN = -1e9  # the logit of an action that is not allowed; finite, so that its entropy is 0 and not undefined


class Policy(nn.Module):
    """An LSTM over slots: the slot and the last action go in, the next action's logits and a value come out."""

    def __init__(self, slots: Slots, hidden: int) -> None:
        super().__init__()
        offsets = [1]  # 0 stands for nothing: the start, and empty slots
        for width in slots.widths:
            offsets.append(offsets[-1] + width)
        self.offsets = offsets
        self.actions = nn.Embedding(offsets[-1], hidden)
        self.slots = nn.Embedding(len(slots), hidden)
        self.cell = nn.LSTM(hidden, hidden, batch_first=True)
        self.logits = nn.Linear(hidden, max(slots.widths))
        self.value = nn.Linear(hidden, 1)
        with torch.no_grad():
            self.logits.weight.mul_(0.1)  # nearly uniform at the start
            self.logits.bias.zero_()

    def symbol(self, slot: int, action: int) -> int:
        return self.offsets[slot] + action if action >= 0 else 0

    def forward(
        self, symbols: Tensor, slots: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Logits (n, t, widest) and values (n, t) of the slots, given the symbols (n, t) before each; slots (t)."""
        out, state = self.cell(self.actions(symbols) + self.slots(slots), state)
        return self.logits(out), self.value(out).squeeze(-1), state


@dataclass(frozen=True)
class Batch:
    """Episodes as tensors of (episodes, slots): symbols before, actions, the mask of allowed ones, filled slots."""

    symbols: Tensor
    actions: Tensor
    allowed: Tensor
    filled: Tensor

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch(self.symbols[rows], self.actions[rows], self.allowed[rows], self.filled[rows])


class Learner:
    """A policy and its optimiser.

    Args:
        seed: of the first weights.
    """

    def __init__(self, config: PPO.Config, slots: Slots, seed: int) -> None:
        self._config = config
        self._slots = slots
        self._order = torch.arange(len(slots))
        self.updates = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._policy = Policy(slots, config.hidden)
        self._optimizer = torch.optim.Adam(self._policy.parameters(), lr=config.learning_rate, foreach=True)

    def update(self, episodes: Sequence[Episode], rng: Rng) -> None:
        """One PPO update on finished episodes."""
        self.updates += 1
        config = self._config
        batch = self._batch([episode.architecture for episode in episodes])
        with torch.no_grad():
            values = self._policy(batch.symbols, self._order)[1]
        rewards = torch.tensor([episode.reward for episode in episodes])
        advantages, returns = _estimate(rewards, values, batch.filled, config.gamma, config.gae_lambda)
        known = advantages[batch.filled]
        advantages = (advantages - known.mean()) / (known.std(correction=0) + 1e-8)
        old = torch.tensor([episode.log_probabilities for episode in episodes])
        rows = list(range(len(episodes)))
        for _ in range(config.epochs):
            rng.shuffle(rows)
            for start in range(0, len(rows), config.minibatch):
                part = torch.tensor(rows[start : start + config.minibatch])
                self._step(batch[part], old[part], advantages[part], returns[part])

    def _step(self, batch: Batch, old: Tensor, advantages: Tensor, returns: Tensor) -> None:
        config, filled = self._config, batch.filled
        logs, values = self._logs(batch)
        entropy = -(logs.exp() * logs).sum(-1)
        ratio = torch.exp(torch.where(filled, _chosen(logs, batch.actions) - old, 0.0))
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        gain = torch.minimum(ratio * advantages, clipped * advantages)[filled].mean()
        error = (values - returns)[filled].square().mean()
        loss = config.value_coefficient * error - gain - config.entropy * entropy[filled].mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._policy.parameters(), config.max_gradient_norm)
        self._optimizer.step()

    def _logs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of all actions (episodes, slots, widest), and values (episodes, slots)."""
        logits, values, _ = self._policy(batch.symbols, self._order)
        return torch.log_softmax(logits.masked_fill(~batch.allowed, _FORBIDDEN), dim=-1), values

    @torch.no_grad()
    def sample(self, number: int, rng: Rng) -> list[dict[str, object]]:
        """Decisions of `number` architectures, drawn from the policy; constraints are not asked."""
        writers = [Writer(self._slots) for _ in range(number)]
        symbols = torch.zeros(number, 1, dtype=torch.long)
        state: tuple[Tensor, Tensor] | None = None
        for slot in range(len(self._slots)):
            logits, _, state = self._policy(symbols, self._order[slot : slot + 1], state)
            for row, (writer, scores) in enumerate(zip(writers, logits[:, 0].double().numpy(), strict=True)):
                allowed = writer.allowed
                action = _draw(scores[allowed], allowed, rng) if allowed else -1
                writer.put(action)
                symbols[row, 0] = self._policy.symbol(slot, action)
        return [dict(writer.decisions) for writer in writers]

    @torch.no_grad()
    def log_probabilities(self, architectures: Sequence[Architecture]) -> list[list[float]]:
        """Of each architecture the log-probability of each slot's action, 0 in empty slots."""
        batch = self._batch(architectures)
        logs, _ = self._logs(batch)
        found: list[list[float]] = torch.where(batch.filled, _chosen(logs, batch.actions), 0.0).tolist()
        return found

    def _batch(self, architectures: Sequence[Architecture]) -> Batch:
        shape = (len(architectures), len(self._slots))
        symbols, actions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        allowed = torch.zeros(*shape, max(self._slots.widths), dtype=torch.bool)
        filled = torch.zeros(shape, dtype=torch.bool)
        for row, architecture in enumerate(architectures):
            before = 0
            for slot, (action, choices) in enumerate(zip(*self._slots.sequence(architecture), strict=True)):
                symbols[row, slot] = before
                before = self._policy.symbol(slot, action)
                if choices:
                    actions[row, slot] = action
                    allowed[row, slot, choices] = True
                    filled[row, slot] = True
        return Batch(symbols, actions, allowed, filled)


@contextmanager
def one_thread() -> Iterator[None]:
    """These networks are too small for more, and results do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen(logs: Tensor, actions: Tensor) -> Tensor:
    return logs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def _draw(logits: NDArray[np.float64], allowed: list[int], rng: Rng) -> int:
    """One of `allowed`, by the softmax of their logits."""
    sums = np.cumsum(np.exp(logits - logits.max()))
    place = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    return allowed[min(place, len(allowed) - 1)]


def _estimate(rewards: Tensor, values: Tensor, filled: Tensor, gamma: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns, (episodes, slots); the reward comes with the last filled slot."""
    advantages = torch.zeros_like(values)
    running, after = torch.zeros_like(rewards), torch.zeros_like(rewards)
    reward = rewards.to(values.dtype)
    for slot in range(values.shape[1] - 1, -1, -1):
        here = filled[:, slot]
        delta = reward + gamma * after - values[:, slot]
        running = torch.where(here, delta + gamma * decay * running, running)
        after = torch.where(here, values[:, slot], after)
        reward = torch.where(here, torch.zeros_like(reward), reward)
        advantages[:, slot] = running
    return advantages, advantages + values
