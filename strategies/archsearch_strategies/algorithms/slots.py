"""Architectures as sequences of small decisions, for policies that write them one by one."""

from __future__ import annotations

from archsearch.space import Architecture, Choice, Decision, SearchSpace, Subset


class Slots:
    """The positions of a sequence that every architecture of a space has, and what may stand at each.

    A categorical or ordinal choice is one slot. A subset of k inputs is k slots in which the inputs' positions rise, a
    subset of any size is a yes or no for each input; so every architecture has exactly one sequence. The slots of an
    inactive choice are empty.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.widths = [width for choice in space for width in _widths(choice)]  # candidates of each slot

    def __len__(self) -> int:
        return len(self.widths)

    def sequence(self, architecture: Architecture) -> tuple[list[int], list[list[int]]]:
        """The action of each slot and the actions that were allowed there; -1 and none where the slot is empty."""
        actions: list[int] = []
        allowed: list[list[int]] = []
        for choice in self.space:
            if choice.name not in architecture:
                actions += [-1] * len(_widths(choice))
                allowed += [[] for _ in _widths(choice)]
                continue
            taken: list[int] = []
            for action in _actions(choice, architecture[choice.name]):
                allowed.append(_allowed(choice, taken))
                taken.append(action)
            actions += taken
        return actions, allowed


class Writer:
    """Writes one architecture slot by slot: ask `allowed`, then `put`."""

    def __init__(self, slots: Slots) -> None:
        self._plan = [(choice, index) for choice in slots.space for index in range(len(_widths(choice)))]
        self._at = 0
        self._taken: list[int] = []  # in the slots of the current choice
        self.decisions: dict[str, Decision] = {}

    @property
    def allowed(self) -> list[int]:
        """The actions of the current slot; empty where its choice is not active."""
        choice, _ = self._plan[self._at]
        return _allowed(choice, self._taken) if choice.active(self.decisions) else []

    def put(self, action: int) -> None:
        """Fill the current slot (-1 where nothing is allowed) and go to the next."""
        choice, index = self._plan[self._at]
        self._at += 1
        if action >= 0:
            self._taken.append(action)
        if index + 1 == len(_widths(choice)):
            if self._taken:
                self.decisions[choice.name] = _decision(choice, self._taken)
            self._taken = []


def _widths(choice: Choice) -> list[int]:
    if not isinstance(choice, Subset):
        return [choice.count]
    return [2] * choice.width if choice.choose is None else [choice.width] * choice.choose


def _allowed(choice: Choice, taken: list[int]) -> list[int]:
    if not isinstance(choice, Subset):
        return list(range(choice.count))
    if choice.choose is None:
        return [0, 1]
    first = taken[-1] + 1 if taken else 0
    return list(range(first, choice.width - (choice.choose - len(taken)) + 1))


def _actions(choice: Choice, decision: Decision) -> list[int]:
    if not isinstance(choice, Subset):
        return [choice.options.index(decision)]
    chosen = [int(number) for number in choice.encode(decision)]
    return chosen if choice.choose is None else [index for index, number in enumerate(chosen) if number]


def _decision(choice: Choice, taken: list[int]) -> Decision:
    if not isinstance(choice, Subset):
        return choice.options[taken[0]]
    if choice.choose is None:
        return tuple(each for each, yes in zip(choice.candidates, taken, strict=True) if yes)
    return tuple(choice.candidates[index] for index in taken)
