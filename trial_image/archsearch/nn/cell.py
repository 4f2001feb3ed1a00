"""Cell: a small graph whose nodes choose their inputs and operations, and what it leaves when it is fixed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from archsearch.errors import UserError
from archsearch.nn.fixing import Fixing
from archsearch.nn.mutables import ALWAYS, Always, InputChoice, LayerChoice, Mutable
from archsearch.nn.sparing import candidates as made_candidates
from archsearch.nn.sparing import is_sparing
from archsearch.space import Term

Merge = Literal["all", "loose_end", "chosen"]
Wiring = Literal["slots", "edges"]
OpFactory = Callable[[int, int, int], nn.Module]


class ChosenCell(nn.Module):
    """What `fix` leaves of a Cell: each node the sum of its operations, the merged nodes joined along dimension 1.

    Args:
        nodes: for each node its (input, operation) pairs; inputs below `predecessors` are the cell's own.
        merged: the numbers of the concatenated nodes.
        predecessors: how many tensors the cell takes.
    """

    def __init__(
        self, nodes: Sequence[Sequence[tuple[int, nn.Module]]], merged: Sequence[int], predecessors: int
    ) -> None:
        super().__init__()
        self.predecessors = predecessors
        self.wiring = tuple(tuple(source for source, _ in node) for node in nodes)
        self.merged = tuple(merged)
        self.ops = nn.ModuleList(op for node in nodes for _, op in node)

    def forward(self, *inputs: Any) -> Tensor:
        states = _states(inputs, self.predecessors)
        ops = iter(self.ops)
        for sources in self.wiring:
            states.append(_total([next(ops)(states[source]) for source in sources]))
        return torch.cat([states[i] for i in self.merged], dim=1)

    def extra_repr(self) -> str:
        return f"nodes from {list(map(list, self.wiring))}, merged {list(self.merged)}"


class Cell(Mutable):
    """A graph of nodes, each the sum of operations on earlier nodes or on the cell's inputs; all that is chosen.

    Made of `LayerChoice` and `InputChoice`, with the names LABEL/op_… and LABEL/input_… (without a label: the module's
    path). The inputs are numbered 0 … predecessors − 1, the nodes from `predecessors` on. Called with the inputs as
    arguments or as one list; gives the merged nodes along dimension 1. Until it is fixed it merges all nodes, so that
    its width is always `nodes` times a node's; `AfterCell` follows what fixing leaves of that.

    Args:
        candidates: by name (or a list, named "0", "1", …): modules, of which copies are made, or functions
            ``(node, operation, input) -> module``, where `operation` numbers the operations of one node.
        nodes: how many nodes there are.
        num_ops_per_node: operations, and so inputs, of a node.
        predecessors: inputs of the cell.
        merge: "all" nodes; "loose_end": the nodes that no other node uses; "chosen": a choice LABEL/concat of any.
        wiring: "slots" (NASNet): each operation chooses its input by itself, twice the same included; names
            op_NODE_SLOT and input_NODE_SLOT. "edges" (DARTS): a node chooses different inputs in one decision,
            input_NODE, and each edge its operation, op_NODE_INPUT, which exists only where the edge is chosen.
        alike: with slots, the input whose operations an input shares (for example 0 for the cell's inputs and 2 for its
            nodes, where only the former are reduced). Default: functions are called for every input, modules are alike
            for all.
        label: equal labels share all decisions.

    Raises:
        UserError: a number that is none from 1 on, an unknown merge or wiring, fewer predecessors than operations of a
            node where inputs must differ, a candidate that is neither a module nor a function.
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module | OpFactory] | Sequence[nn.Module | OpFactory],
        nodes: int,
        num_ops_per_node: int = 1,
        predecessors: int = 1,
        merge: Merge = "all",
        *,
        wiring: Wiring = "slots",
        alike: Callable[[int], int] | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(label)
        what = f"Cell{f' {label!r}' if label else ''}"
        for name, number in (("nodes", nodes), ("num_ops_per_node", num_ops_per_node), ("predecessors", predecessors)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise UserError(f"{what}: {name} is a whole number from 1 on, not {number!r}")
        for name, given, known in (("merge", merge, get_args(Merge)), ("wiring", wiring, get_args(Wiring))):
            if given not in known:
                raise UserError(f"{what}: {name} is one of {', '.join(known)}, not {given!r}")
        if wiring == "edges" and predecessors < num_ops_per_node:
            raise UserError(
                f"{what}: the first node has {predecessors} inputs to choose from and cannot choose "
                f"{num_ops_per_node} different ones; give more predecessors or wiring='slots'"
            )
        named = candidates if isinstance(candidates, Mapping) else {str(i): c for i, c in enumerate(candidates)}
        for candidate_name, candidate in named.items():
            if not callable(candidate):
                raise UserError(
                    f"{what}: the candidate {candidate_name!r} is a {type(candidate).__name__}; give a module or a "
                    "function of (node, operation, input) that makes one"
                )
        if alike is None and all(isinstance(candidate, nn.Module) for candidate in named.values()):
            alike = _all_alike
        self.nodes, self.num_ops_per_node, self.predecessors = nodes, num_ops_per_node, predecessors
        self.merge, self.wiring = merge, wiring
        self.inputs = nn.ModuleDict()
        self.ops = nn.ModuleDict()
        for node in self.numbers:
            self._add_node(node, named, alike or _own)
        self.concat: InputChoice | None = None
        if merge == "chosen":
            self.concat = InputChoice(nodes, None, "concat", self._label("concat"), choose_from=tuple(self.numbers))  # type: ignore[arg-type]

    @property
    def numbers(self) -> range:
        """The numbers of the nodes."""
        return range(self.predecessors, self.predecessors + self.nodes)

    def _label(self, name: str) -> str | None:
        return f"{self.label}/{name}" if self.label else None

    def _add_node(self, node: int, named: Mapping[str, Any], alike: Callable[[int], int]) -> None:
        slots = range(self.num_ops_per_node)
        if self.wiring == "edges":
            self.inputs[str(node)] = InputChoice(node, len(slots), "sum", self._label(f"input_{node}"))
            for source in range(node):
                self.ops[f"{node}_{source}"] = self._op(named, node, 0, source, f"op_{node}_{source}")
            return
        for slot in slots:
            self.inputs[f"{node}_{slot}"] = InputChoice(node, 1, "sum", self._label(f"input_{node}_{slot}"))
            self.ops[f"{node}_{slot}"] = nn.ModuleDict(
                {str(i): self._op(named, node, slot, i, f"op_{node}_{slot}") for i in _groups(node, alike)}
            )
        self._alike = alike

    def _op(self, named: Mapping[str, Any], node: int, slot: int, source: int, name: str) -> LayerChoice:
        def make(candidate: Any) -> nn.Module:
            if isinstance(candidate, nn.Module):
                return copy.deepcopy(candidate)
            made: nn.Module = candidate(node, slot, source)
            return made

        label = self._label(name)
        return LayerChoice(made_candidates(label, {key: partial(make, op) for key, op in named.items()}), label)

    conductible = True

    def forward(self, *inputs: Any) -> Tensor:
        states = _states(inputs, self.predecessors)
        for node in self.numbers:
            if self.wiring == "edges":
                edges = [partial(self.ops[f"{node}_{i}"], states[i]) for i in range(node)]
                states.append(self._choose(str(node)).lazy(edges))
            else:
                states.append(_total([self._slot(f"{node}_{k}", states) for k in range(self.num_ops_per_node)]))
        merged = self.numbers if self.conductor is None else self.conductor.merged(self)
        return torch.cat([states[i] for i in merged], dim=1)

    def _choose(self, key: str) -> InputChoice:
        found = self.inputs[key]
        assert isinstance(found, InputChoice)  # noqa: S101 - _add_node put it there
        return found

    def _slot(self, slot: str, states: list[Tensor]) -> Tensor:
        choose, groups = self._choose(slot), self.ops[slot]
        assert isinstance(groups, nn.ModuleDict)  # noqa: S101 - _add_node put them there
        if len(groups) == 1:
            (op,) = groups.values()
            out: Tensor = op(choose(states))
        else:
            out = choose.lazy([partial(groups[str(self._alike(i))], state) for i, state in enumerate(states)])
        return out

    def choice(self, name: str) -> None:
        return None

    def branches(self, fixing: Fixing) -> Iterator[tuple[str, nn.Module, Always]]:
        prefix = self.label or fixing.paths.get(id(self)) or "cell"

        def named(module: nn.Module, name: str) -> nn.Module:
            fixing.names.setdefault(id(module), f"{prefix}/{name}")
            return module

        for key, choose in self.inputs.items():
            yield f"inputs.{key}", named(choose, f"input_{key}"), ALWAYS
            if self.wiring == "edges":
                for source in range(int(key)):
                    edge = f"{key}_{source}"
                    when = ((Term(fixing.name(choose), (source,)),),)
                    yield f"ops.{edge}", named(self.ops[edge], f"op_{edge}"), when
            else:
                yield from self._slot_branches(key, named, fixing)
        if self.concat is not None:
            yield "concat", named(self.concat, "concat"), ALWAYS

    def _slot_branches(
        self, slot: str, named: Callable[[nn.Module, str], nn.Module], fixing: Fixing
    ) -> Iterable[tuple[str, nn.Module, Always]]:
        groups = self.ops[slot]
        assert isinstance(groups, nn.ModuleDict)  # noqa: S101 - _add_node put them there
        node, choice = int(slot.split("_", maxsplit=1)[0]), fixing.name(self.inputs[slot])
        for group, op in groups.items():
            members = tuple(i for i in range(node) if str(self._alike(i)) == group)
            when: Always = ALWAYS if len(groups) == 1 else ((Term(choice, members),),)
            yield f"ops.{slot}.{group}", named(op, f"op_{slot}"), when

    def wired(self, fixing: Fixing) -> list[list[tuple[int, nn.Module]]]:
        """For each node the chosen inputs and, still to be fixed, the choices of the operations on them."""
        nodes: list[list[tuple[int, nn.Module]]] = []
        for node in self.numbers:
            if self.wiring == "edges":
                nodes.append([(i, self.ops[f"{node}_{i}"]) for i in self._decided(str(node), fixing)])
                continue
            pairs: list[tuple[int, nn.Module]] = []
            for slot in (f"{node}_{k}" for k in range(self.num_ops_per_node)):
                (source,) = self._decided(slot, fixing)
                groups = self.ops[slot]
                assert isinstance(groups, nn.ModuleDict)  # noqa: S101 - _add_node put them there
                pairs.append((source, groups[str(self._alike(source))]))
            nodes.append(pairs)
        return nodes

    def _decided(self, key: str, fixing: Fixing) -> tuple[int, ...]:
        decision = fixing.decision(self.inputs[key])
        assert isinstance(decision, tuple)  # noqa: S101 - a subset's decisions are tuples
        return tuple(int(i) for i in decision)

    def merged(self, fixing: Fixing) -> tuple[int, ...]:
        """The numbers of the nodes that the cell gives under the decisions."""
        if self.concat is not None:
            decision = fixing.decision(self.concat)
            assert isinstance(decision, tuple)  # noqa: S101 - a subset's decisions are tuples
            return tuple(int(i) for i in decision)
        if self.merge == "all":
            return tuple(self.numbers)
        return loose_ends([[source for source, _ in node] for node in self.wired(fixing)], self.predecessors)

    def resolve(self, fixing: Fixing) -> nn.Module:
        return ChosenCell(self.wired(fixing), self.merged(fixing), self.predecessors).train(self.training)


class AfterCell(Mutable):
    """A convolution or linear layer that reads what a Cell merges; fixing keeps the inputs of the nodes that are left.

    Args:
        module: an `nn.Conv2d` without groups or an `nn.Linear`, made for the cell's full width, whose weights are kept.
        cell: the cell whose output it reads.

    Raises:
        UserError: another module, or a width that is no multiple of the cell's nodes.
    """

    def __init__(self, module: nn.Module, cell: Cell) -> None:
        super().__init__(None)
        if not (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)):
            raise UserError(f"AfterCell: {module} is no Conv2d without groups and no Linear layer")
        if module.weight.shape[1] % cell.nodes:
            raise UserError(
                f"AfterCell: {module} reads {module.weight.shape[1]} channels, which "
                f"{cell.nodes} nodes do not share evenly"
            )
        self.module = module
        self._cell = (cell,)  # in a tuple, so that the cell is no submodule of this one too

    conductible = True

    def forward(self, x: Tensor) -> Tensor:
        (cell,) = self._cell
        merged = cell.numbers if self.conductor is None else self.conductor.merged(cell)
        if len(merged) == cell.nodes:
            out: Tensor = self.module(x)
            return out
        kept = self._kept(merged)
        if isinstance(self.module, nn.Linear):
            return functional.linear(x, kept, self.module.bias)
        return self.module._conv_forward(x, kept, self.module.bias)  # type: ignore[no-any-return]

    def _kept(self, merged: Sequence[int]) -> Tensor:
        """The part of the weight that reads these nodes."""
        (cell,) = self._cell
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)  # noqa: S101 - __init__ checked
        parts = torch.tensor_split(weight, cell.nodes, dim=1)
        return torch.cat([parts[number - cell.predecessors] for number in merged], dim=1)

    def choice(self, name: str) -> None:
        return None

    def resolve(self, fixing: Fixing) -> nn.Module:
        (cell,) = self._cell
        merged = cell.merged(fixing)
        if len(merged) == cell.nodes:
            return self.module
        plain: Any = copy.copy(self.module)  # its parameters alone are replaced
        plain._parameters = dict(self.module._parameters)
        kept = self._kept(merged).detach()
        plain.weight = nn.Parameter(kept, requires_grad=bool(self.module.weight.requires_grad))
        setattr(plain, "in_features" if isinstance(plain, nn.Linear) else "in_channels", kept.shape[1])
        if is_sparing():
            plain.reset_parameters()  # fresh weights depend on how many inputs there are
        replaced: nn.Module = plain
        return replaced


def loose_ends(nodes: Sequence[Sequence[int]], predecessors: int) -> tuple[int, ...]:
    """The numbers of the nodes that none uses, where `nodes` lists each one's inputs."""
    used = {source for sources in nodes for source in sources}
    return tuple(i for i in range(predecessors, predecessors + len(nodes)) if i not in used)


def _states(inputs: tuple[Any, ...], predecessors: int) -> list[Tensor]:
    states = list(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], list | tuple) else list(inputs)
    if len(states) != predecessors:
        raise UserError(f"a cell of {predecessors} predecessors was given {len(states)} inputs")
    return states


def _total(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _own(source: int) -> int:
    return source


def _all_alike(source: int) -> int:
    return 0


def _groups(node: int, alike: Callable[[int], int]) -> list[int]:
    return list(dict.fromkeys(alike(i) for i in range(node)))
