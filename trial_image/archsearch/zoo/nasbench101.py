"""NAS-Bench-101 (Ying 2019, "NAS-Bench-101: Towards Reproducible Neural Architecture Search"): a cell of up to seven
vertices and nine edges, each inner vertex with one of three operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import InputChoice, ValueChoice
from archsearch.nn.fixing import Fixing
from archsearch.nn.mutables import ALWAYS, Always, Mutable, warn_standalone
from archsearch.space import Categorical, Choice, Constraint, Term
from archsearch.zoo.arguments import whole
from archsearch.zoo.building import Published
from archsearch.zoo.operations import conv

VERTICES = 7
EDGES = 9
OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
Matrix = tuple[tuple[int, ...], ...]


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution without bias, batch normalization, ReLU."""
    return nn.Sequential(conv(inputs, outputs, kernel), nn.BatchNorm2d(outputs), nn.ReLU())


def _operation(name: str, channels: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, 1, 1)
    return conv_bn_relu(channels, channels, 3 if name == "conv3x3-bn-relu" else 1)


def prune(matrix: Matrix, operations: Sequence[str]) -> tuple[Matrix, tuple[str, ...]]:
    """The vertices that lie on a path from the input to the output, and the edges between them.

    Raises:
        UserError: there is no such path.
    """
    last = len(matrix) - 1
    forward, backward = {0}, {last}
    for i in range(last + 1):
        if i in forward:
            forward |= {j for j in range(i, last + 1) if matrix[i][j]}
    for j in range(last, -1, -1):
        if j in backward:
            backward |= {i for i in range(j) if matrix[i][j]}
    kept = sorted(forward & backward)
    if 0 not in kept or last not in kept:
        raise UserError("nasbench101: no path leads from the cell's input to its output")
    return tuple(tuple(matrix[i][j] for j in kept) for i in kept), tuple(operations[i] for i in kept)


def vertex_channels(inputs: int, outputs: int, matrix: Matrix) -> list[int]:
    """How wide each vertex is (Ying 2019, section 2.2, and the published code).

    Those that lead to the output share its channels, the first ones taking one more where they do not divide evenly;
    any other is as wide as the widest that it leads to.
    """
    last = len(matrix) - 1
    channels = [inputs] + [0] * (last - 1) + [outputs]
    leading = [v for v in range(1, last) if matrix[v][last]]
    for rank, v in enumerate(leading):
        channels[v] = outputs // len(leading) + (rank < outputs % len(leading))
    for v in range(last - 1, 0, -1):
        if v not in leading:
            channels[v] = max(channels[w] for w in range(v + 1, last) if matrix[v][w])
    return channels


class PlainCell(nn.Module):
    """The cell of a pruned matrix. Input (N, inputs, H, W), output (N, outputs, H, W).

    Args:
        matrix: upper triangular, 1 for an edge.
        operations: of each vertex; those of the first and last are not looked at.
    """

    def __init__(self, inputs: int, outputs: int, matrix: Matrix, operations: Sequence[str]) -> None:
        super().__init__()
        last = len(matrix) - 1
        self.matrix = matrix
        self.channels = vertex_channels(inputs, outputs, matrix)
        self.projections = nn.ModuleDict(
            {str(v): conv_bn_relu(inputs, self.channels[v], 1) for v in range(1, last + 1) if matrix[0][v]}
        )
        self.ops = nn.ModuleList(_operation(operations[v], self.channels[v]) for v in range(1, last))

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.matrix) - 1
        states: list[Tensor] = [x]
        for v, op in enumerate(self.ops, 1):
            terms = [states[w][:, : self.channels[v]] for w in range(1, v) if self.matrix[w][v]]
            if self.matrix[0][v]:
                terms.append(self.projections[str(v)](x))
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            states.append(op(total))
        leading = [states[v] for v in range(1, last) if self.matrix[v][last]]
        if not leading:
            projected: Tensor = self.projections[str(last)](x)
            return projected
        out = torch.cat(leading, dim=1)
        return out + self.projections[str(last)](x) if self.matrix[0][last] else out


class _Operation(Mutable):
    """The choice of a vertex's operation; the cell makes the module."""

    def choice(self, name: str) -> Choice:
        return Categorical(name, OPERATIONS)

    def resolve(self, fixing: Fixing) -> nn.Module:
        return nn.Identity()


class NASBench101Cell(Mutable):
    """A cell whose graph is chosen: `vertices`, the operation and the inputs of each.

    The modules' shapes depend on the whole graph, so that there are none to share before it is fixed: in standalone
    mode the cell is the one of the first candidates.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(None)
        self.shape = (inputs, outputs)
        self.vertices = (ValueChoice(range(2, VERTICES + 1), label="vertices"),)
        self.operations = nn.ModuleDict({str(v): _Operation(f"op_{v}") for v in range(1, VERTICES - 1)})
        self.inputs = nn.ModuleDict({str(v): InputChoice(v, None, label=f"inputs_{v}") for v in range(1, VERTICES)})
        self.inner = PlainCell(inputs, outputs, ((0, 1), (0, 0)), ("input", "output"))

    def forward(self, x: Tensor) -> Tensor:
        warn_standalone()
        out: Tensor = self.inner(x)
        return out

    def choice(self, name: str) -> None:
        return None

    def values(self) -> Iterable[tuple[str, Any]]:
        return [("vertices", self.vertices[0])]

    def branches(self, fixing: Fixing) -> Iterator[tuple[str, nn.Module, Always]]:
        for v in range(1, VERTICES):
            yield f"inputs.{v}", self.inputs[str(v)], _exists("vertices", v + 1)
            if v < VERTICES - 1:
                yield f"operations.{v}", self.operations[str(v)], _exists("vertices", v + 2)

    def resolve(self, fixing: Fixing) -> nn.Module:
        count = fixing.decision(self.vertices[0])
        assert isinstance(count, int)  # noqa: S101 - the choice's values are
        sources = {v: fixing.decision(self.inputs[str(v)]) for v in range(1, count)}
        matrix = tuple(tuple(int(j > 0 and i in sources[j]) for j in range(count)) for i in range(count))  # type: ignore[operator]
        names = ["input", *(str(fixing.decision(self.operations[str(v)])) for v in range(1, count - 1)), "output"]
        return PlainCell(*self.shape, *prune(matrix, names)).train(self.training)


def _exists(choice: str, least: int) -> Always:
    return ALWAYS if least <= 2 else ((Term(choice, tuple(range(least, VERTICES + 1))),),)


def _constraints() -> list[Constraint]:
    """At most nine edges; each vertex that exists has an input, so that a path leads to the output."""
    inputs = {v: [Term(f"inputs_{v}", (i,)) for i in range(v)] for v in range(1, VERTICES)}
    some = []
    for v, terms in inputs.items():
        absent = [Term("vertices", tuple(range(2, v + 1)))] if v > 1 else []
        some.append(Constraint.count(f"vertex {v} has an input", [*terms, *absent], least=1))
    return [Constraint.count("edges", [term for terms in inputs.values() for term in terms], most=EDGES), *some]


class NASBench101(nn.Module):
    """The benchmark's network: a stem, three stacks of cells, the later two after halving and at twice the width.

    Input (N, input_channels, H, W), output (N, classes). Vertices that lead nowhere are pruned when it is fixed.
    Notation: {matrix, operations}, with the operations of all vertices, input and output included, or the inner ones'.

    Args:
        channels: of the stem and the first stack.
        cells: in each of the three stacks.
        classes: outputs.
        input_channels: of the images.

    Raises:
        UserError: an argument that is no whole number from 1 on.
    """

    name: ClassVar[str] = "nasbench101"
    small: ClassVar[Mapping[str, Any]] = {"channels": 1, "cells": 1}
    published: ClassVar[Mapping[str, Published]] = {
        "Inception": Published(
            {
                "matrix": [
                    [0, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0],
                    [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0],
                ],
                "operations": ["conv1x1-bn-relu", *["conv3x3-bn-relu"] * 3, "maxpool3x3"],
            },
            "Ying 2019, the example of its code",
        )
    }  # fmt: skip

    def __init__(self, *, channels: int = 128, cells: int = 3, classes: int = 10, input_channels: int = 3) -> None:
        super().__init__()
        whole(self.name, channels=channels, cells=cells, classes=classes, input_channels=input_channels)
        self.stem = conv_bn_relu(input_channels, channels, 3)
        layers: list[nn.Module] = []
        width = channels
        for stack in range(3):
            if stack:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            for i in range(cells):
                inputs, width = width, width * (2 if stack and i == 0 else 1)
                layers.append(NASBench101Cell(inputs, width))
        self.body = nn.Sequential(*layers)
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, classes)
        self.space_constraints = _constraints()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pooling(self.body(self.stem(images))))
        return logits

    @classmethod
    def decisions(cls, notation: Any, args: Mapping[str, Any]) -> dict[str, Any]:
        """From {matrix, operations} to decisions; what leads nowhere is pruned first.

        Raises:
            UserError: no square upper triangular matrix of 0 and 1, a wrong number of operations or an unknown one, no
                path from input to output, more than seven vertices or nine edges.
        """
        if not isinstance(notation, Mapping) or set(notation) != {"matrix", "operations"}:
            raise UserError(f"{cls.name}: a notation is {{matrix, operations}}, not {notation!r}")
        matrix = tuple(tuple(int(x) for x in row) for row in notation["matrix"])
        count = len(matrix)
        triangular = all(x in (0, 1) and (j > i or not x) for i, row in enumerate(matrix) for j, x in enumerate(row))
        if count < 2 or any(len(row) != count for row in matrix) or not triangular:
            raise UserError(f"{cls.name}: {notation['matrix']!r} is no square upper triangular matrix of 0 and 1")
        inner = [_known(cls.name, name) for name in notation["operations"] if name not in ("input", "output")]
        if len(inner) != count - 2:
            raise UserError(f"{cls.name}: {count} vertices have {count - 2} operations between them, not {len(inner)}")
        matrix, names = prune(matrix, ("input", *inner, "output"))
        edges = sum(map(sum, matrix))
        if len(matrix) > VERTICES or edges > EDGES:
            raise UserError(
                f"{cls.name}: a cell has at most {VERTICES} vertices and {EDGES} edges, not {len(matrix)} and {edges}"
            )
        found: dict[str, Any] = {"vertices": len(matrix)}
        for v in range(1, len(matrix)):
            found[f"inputs_{v}"] = [w for w in range(v) if matrix[w][v]]
            if v < len(matrix) - 1:
                found[f"op_{v}"] = names[v]
        return found


def _known(space: str, name: Any) -> str:
    short = {operation.split("-", maxsplit=1)[0]: operation for operation in OPERATIONS}
    found = short.get(str(name), name)
    if found not in OPERATIONS:
        raise UserError(f"{space}: no operation is named {name!r}; expected {', '.join(OPERATIONS)}")
    return str(found)
