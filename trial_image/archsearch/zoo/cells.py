"""The evaluation network of the cell spaces (Liu 2019, "DARTS", section 3.1 and its published code).

A stem, normal cells with two reduction cells at a third and two thirds, pooling and a linear layer. A cell takes the
outputs of the two cells before it, each brought to its own width by a 1×1 convolution. All normal cells share their
decisions, and so do all reduction cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from archsearch.errors import UserError
from archsearch.nn.cell import AfterCell, Cell, Merge, Wiring, loose_ends
from archsearch.space import Constraint, Term
from archsearch.zoo.arguments import one_of, probability, whole
from archsearch.zoo.building import Published
from archsearch.zoo.operations import Halving, conv, operation

KINDS = ("normal", "reduce")
PREDECESSORS = 2


class Source:
    """Channels that a cell reads: of a stem, or of an earlier cell."""

    def __init__(self, channels: int, cell: Cell | None = None) -> None:
        self.channels = channels
        self._cell = cell

    def read(self, module: nn.Module) -> nn.Module:
        """The module, made to follow what the cell merges."""
        return module if self._cell is None else AfterCell(module, self._cell)


def preprocess(source: Source, channels: int, halve: bool) -> nn.Sequential:
    """ReLU, 1×1 convolution (halving height and width where asked), batch normalization."""
    if halve:
        half = channels // 2
        widths = (half, channels - half)
        body: nn.Module = Halving(*(source.read(conv(source.channels, width, 1, 2)) for width in widths))
    else:
        body = source.read(conv(source.channels, channels, 1))
    return nn.Sequential(nn.ReLU(), body, nn.BatchNorm2d(channels))


class PreparedCell(nn.Module):
    """A cell with the preprocessing of its two inputs."""

    def __init__(self, first: nn.Module, second: nn.Module, cell: Cell) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.cell = cell

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        out: Tensor = self.cell(self.first(before_last), self.second(last))
        return out


class AuxiliaryPool(nn.Module):
    """Average pooling of 5×5 to 2×2, as published; images of other sizes than the paper's are pooled to that too."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if all(side >= 5 and (side - 5) // self.stride == 1 for side in x.shape[2:]):
            return functional.avg_pool2d(x, 5, self.stride)
        return functional.adaptive_avg_pool2d(x, 2)


class AuxiliaryHead(nn.Module):
    """A classifier on the output of the second reduction cell, used in training only.

    Args:
        source: what it reads.
        classes: outputs.
        imagenet: the published ImageNet head, of pooling stride 2 and without the second normalization.
    """

    def __init__(self, source: Source, classes: int, *, imagenet: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            AuxiliaryPool(2 if imagenet else 3),
            source.read(conv(source.channels, 128, 1)),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([] if imagenet else [nn.BatchNorm2d(768)]),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


class CellNetwork(nn.Module):
    """A network of cells; the subclasses say of which. Input (N, input_channels, H, W), output (N, classes).

    With an auxiliary head a forward pass in training gives (logits, auxiliary logits).

    Args:
        channels: of an operation in the first cells; doubled at each reduction.
        cells: in all.
        classes: outputs.
        input_channels: of the images.
        input_size: height and width of the images; nothing depends on it.
        stem: "cifar" (one convolution) or "imagenet" (three of stride 2).
        auxiliary: add the auxiliary head.
        drop_path: probability of dropping an operation's path in training, but identities.
        nodes: in a cell. Default: the space's.
        concat: "default" merges what the space's paper says, "chosen" makes the merged nodes a choice of each cell.

    Raises:
        UserError: an argument out of its range.
    """

    name: ClassVar[str]
    operations: ClassVar[tuple[str, ...]]
    standard_nodes: ClassVar[int] = 5
    wiring: ClassVar[Wiring] = "slots"
    merge: ClassVar[Merge] = "loose_end"
    published: ClassVar[Mapping[str, Published]] = {}
    small: ClassVar[Mapping[str, Any]] = {"channels": 2, "cells": 3}

    def __init__(
        self,
        *,
        channels: int = 36,
        cells: int = 20,
        classes: int = 10,
        input_channels: int = 3,
        input_size: int = 32,
        stem: str = "cifar",
        auxiliary: bool = False,
        drop_path: float = 0.0,
        nodes: int | None = None,
        concat: str = "default",
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        nodes = self.standard_nodes if nodes is None else nodes
        whole(
            self.name, cells=cells, classes=classes, input_channels=input_channels, input_size=input_size, nodes=nodes
        )
        one_of(self.name, "stem", stem, ("cifar", "imagenet"))
        one_of(self.name, "auxiliary", auxiliary, (True, False))
        one_of(self.name, "concat", concat, ("default", "chosen"))
        probability(self.name, "drop_path", drop_path)
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 2:
            raise UserError(f"{self.name}: channels is a whole number from 2 on, not {channels!r}")
        self._merge: Merge = "chosen" if concat == "chosen" else self.merge
        self._nodes, self._drop_path = nodes, drop_path
        self.stem = nn.ModuleList(_stems(input_channels, channels, imagenet))
        width = channels if imagenet else 3 * channels
        sources = [Source(width), Source(width)]
        halved_before = imagenet
        self.cells = nn.ModuleList()
        reductions = (cells // 3, 2 * cells // 3)
        self.auxiliary_head: AuxiliaryHead | None = None
        for i in range(cells):
            reduce = i in reductions
            channels *= 2 if reduce else 1
            cell = self._cell(channels, reduce)
            first, second = preprocess(sources[0], channels, halved_before), preprocess(sources[1], channels, False)
            self.cells.append(PreparedCell(first, second, cell))
            sources = [sources[1], Source(channels * nodes, cell)]
            halved_before = reduce
            if auxiliary and i == reductions[1]:
                self.auxiliary_head = AuxiliaryHead(sources[1], classes, imagenet=imagenet)
        self.auxiliary_cell = reductions[1]
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = sources[1].read(nn.Linear(sources[1].channels, classes))
        self.space_constraints = _some_node(cells, nodes) if concat == "chosen" else []

    def _cell(self, channels: int, reduce: bool) -> Cell:
        def maker(name: str) -> Any:
            def make(node: int, slot: int, source: int) -> nn.Module:
                stride = 2 if reduce and source < PREDECESSORS else 1
                return operation(name, channels, stride, self._drop_path)

            return make

        return Cell(
            {name: maker(name) for name in self.operations},
            self._nodes,
            2,
            PREDECESSORS,
            self._merge,
            wiring=self.wiring,
            alike=(lambda i: min(i, PREDECESSORS) // PREDECESSORS * PREDECESSORS) if reduce else (lambda i: 0),
            label=KINDS[reduce],
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        before_last = self.stem[0](images)
        last = self.stem[1](before_last)
        extra: Tensor | None = None
        for i, cell in enumerate(self.cells):
            before_last, last = last, cell(before_last, last)
            if self.training and self.auxiliary_head is not None and i == self.auxiliary_cell:
                extra = self.auxiliary_head(last)
        logits: Tensor = self.classifier(self.pooling(last))
        return logits if extra is None else (logits, extra)

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From {normal, normal_concat, reduce, reduce_concat} (a mapping or a named tuple) to decisions.

        ``normal`` and ``reduce`` list [operation, input] pairs, two a node. ``*_concat`` may be left out.

        Raises:
            UserError: the notation is malformed; the text says where.
        """
        fields = notation._asdict() if hasattr(notation, "_asdict") else notation
        if not isinstance(fields, Mapping) or not set(KINDS) <= set(fields):
            raise UserError(
                f"{cls.name}: {notation!r} is no cell notation; expected {{normal, reduce}} and their concats"
            )
        unknown = set(fields) - {key for kind in KINDS for key in (kind, f"{kind}_concat")}
        if unknown:
            raise UserError(
                f"{cls.name}: a cell notation has no {sorted(map(str, unknown))}; expected normal, reduce, …"
            )
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        usual = True
        for kind in KINDS:
            nodes = _nodes(cls.name, kind, fields[kind])
            found |= cls._edges(kind, nodes) if cls.wiring == "edges" else _slots(kind, nodes)
            numbers = range(PREDECESSORS, PREDECESSORS + len(nodes))
            sources = [[source for _, source in node] for node in nodes]
            expected = tuple(numbers) if cls.merge == "all" else loose_ends(sources, PREDECESSORS)
            given = fields.get(f"{kind}_concat")
            concat = expected if given is None else tuple(sorted(set(_concat(cls.name, kind, given, numbers))))
            merged[f"{kind}/concat"] = list(concat)
            usual = usual and concat == expected
        return found if usual else found | merged

    @classmethod
    def _edges(cls, kind: str, nodes: list[list[tuple[str, int]]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, node in enumerate(nodes, PREDECESSORS):
            sources = sorted(source for _, source in node)
            if len(set(sources)) < len(sources):
                raise UserError(
                    f"{cls.name}: node {number} of {kind} takes the input {sources[0]} twice; in this space the inputs "
                    "of a node differ"
                )
            found[f"{kind}/input_{number}"] = sources
            found |= {f"{kind}/op_{number}_{source}": name for name, source in node}
        return found

    @classmethod
    def implied(cls, decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that an architecture's own choices ask for: the number of nodes, and chosen merged nodes."""
        inputs = [key for key in decisions if key.startswith("normal/input_")]
        nodes = len({key.split("_")[1] for key in inputs}) or cls.standard_nodes
        args: dict[str, Any] = {} if nodes == cls.standard_nodes else {"nodes": nodes}
        return args | ({"concat": "chosen"} if any(key.endswith("/concat") for key in decisions) else {})


def _stems(input_channels: int, channels: int, imagenet: bool) -> list[nn.Module]:
    if not imagenet:
        return [
            nn.Sequential(conv(input_channels, 3 * channels, 3), nn.BatchNorm2d(3 * channels)),
            nn.Identity(),
        ]
    half = channels // 2
    first = [conv(input_channels, half, 3, 2), nn.BatchNorm2d(half), nn.ReLU()]
    second = [conv(half, channels, 3, 2), nn.BatchNorm2d(channels)]
    third = [nn.ReLU(), conv(channels, channels, 3, 2), nn.BatchNorm2d(channels)]
    return [nn.Sequential(*first, *second), nn.Sequential(*third)]


def _some_node(cells: int, nodes: int) -> list[Constraint]:
    numbers = range(PREDECESSORS, PREDECESSORS + nodes)
    reductions = {cells // 3, 2 * cells // 3}
    kinds = [kind for kind, there in zip(KINDS, (len(reductions) < cells, True), strict=True) if there]
    return [
        Constraint.count(f"{kind} merges a node", [Term(f"{kind}/concat", (i,)) for i in numbers], least=1)
        for kind in kinds
    ]


def _nodes(space: str, kind: str, pairs: Any) -> list[list[tuple[str, int]]]:
    given = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, str) else []
    if not given or len(given) % 2:
        raise UserError(f"{space}: {kind} is a list of [operation, input] pairs, two a node, not {pairs!r}")
    read: list[tuple[str, int]] = []
    for i, pair in enumerate(given):
        node = PREDECESSORS + i // 2
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError(f"{space}: {kind}[{i}] is an [operation, input] pair, not {pair!r}")
        if isinstance(pair[1], bool) or not isinstance(pair[1], int) or not 0 <= pair[1] < node:
            raise UserError(
                f"{space}: {kind}[{i}] belongs to node {node}, whose inputs are 0 … {node - 1}, not {pair[1]!r}"
            )
        read.append((pair[0], pair[1]))
    return [read[i : i + 2] for i in range(0, len(read), 2)]


def _slots(kind: str, nodes: list[list[tuple[str, int]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, node in enumerate(nodes, PREDECESSORS):
        for slot, (name, source) in enumerate(node):
            found[f"{kind}/input_{number}_{slot}"] = [source]
            found[f"{kind}/op_{number}_{slot}"] = name
    return found


def _concat(space: str, kind: str, given: Any, numbers: range) -> list[int]:
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    if not listed or any(isinstance(i, bool) or i not in numbers for i in listed):
        raise UserError(f"{space}: {kind}_concat lists nodes from {numbers[0]} to {numbers[-1]}, not {given!r}")
    return listed
