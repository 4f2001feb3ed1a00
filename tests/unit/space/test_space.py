from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from archsearch.space import (
    Architecture,
    ArchitectureError,
    Categorical,
    Constraint,
    Ordinal,
    Rng,
    SearchSpace,
    SpaceError,
    Subset,
    Term,
    register_canonicaliser,
)

# Two bodies; one has a depth and a second layer that exists only from depth 2 on; skips from any of three layers.
NESTED = SearchSpace(
    [
        Categorical("body", ("plain", "deep")),
        Ordinal("depth", (1, 2, 4), when=((Term("body", ("deep",)),),)),
        Categorical("second", ("conv", "pool"), when=((Term("depth", (2, 4)),),), members=("a.op", "b.op")),
        Subset("skips", (0, 1, 2)),
        Subset("pair", ("left", "middle", "right"), 2),
    ]
)

# Fixed once: result caches and recorded runs rest on them.
DIGEST = "e0a25ebf015d75dd8bf3b0f825a9c1b0c198b0efaaa98e72b00ec8d2b31a5b37"
HASH = "08c73f198331df44467f07cb6ebce520df6eb972b9f1fb788bb20df90dee3eea"
ISOMORPHIC = "c652c85186252109b0759c3b36c69f93da609d8bcc93d7eb3333ac1343a526dd"
SAMPLED = {
    "edge_0_1": "nor_conv_3x3",
    "edge_0_2": "none",
    "edge_1_2": "none",
    "edge_0_3": "nor_conv_3x3",
    "edge_1_3": "avg_pool_3x3",
    "edge_2_3": "nor_conv_3x3",
}
NESTED_DIGEST = "278b329b8ba53a4788af4bf825334ca5f40d6590a8dadd3e91672b92ad615ef9"
NESTED_HASH = "8fead1919f40b73c797c0e7edccf6457672bb948da4b3eee3088c87a7adac48f"


def test_hashes_never_change(nasbench201: SearchSpace) -> None:
    assert nasbench201.digest == DIGEST
    assert nasbench201.hash(nasbench201.at(1234)) == HASH
    assert nasbench201.hash(nasbench201.at(1234), isomorphic=True) == ISOMORPHIC
    assert nasbench201.sample(Rng(0)).to_json() == SAMPLED
    assert NESTED.digest == NESTED_DIGEST
    deep = {"body": "deep", "depth": 2, "second": "pool", "skips": [2, 0], "pair": ["right", "left"]}
    assert NESTED.hash(deep) == NESTED_HASH


def test_hash_is_the_same_in_another_process() -> None:
    code = "from archsearch.space import *; s=SearchSpace([Categorical('a',('x','y'))]); print(s.hash({'a':'y'}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert out.stdout.strip() == SearchSpace([Categorical("a", ("x", "y"))]).hash({"a": "y"})


def test_isomorphic_cells(nasbench201: SearchSpace) -> None:
    groups = Counter(nasbench201.hash(a, isomorphic=True) for a in nasbench201.enumerate())
    assert len(groups) == 6466
    names = [choice.name for choice in nasbench201]

    def cell(*operations: str) -> dict[str, str]:
        return dict(zip(names, operations, strict=True))

    # Node 1 is the input itself, so the two edges to node 3 can change places.
    one = cell("skip_connect", "none", "none", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    other = cell("skip_connect", "none", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
    assert nasbench201.hash(one) != nasbench201.hash(other)
    assert nasbench201.hash(one, isomorphic=True) == nasbench201.hash(other, isomorphic=True)


def test_canonicalisers_by_name() -> None:
    choices = [Categorical("a", ("x", "y"))]
    with pytest.raises(SpaceError, match="has no canonicaliser"):
        SearchSpace(choices).hash({"a": "x"}, isomorphic=True)
    with pytest.raises(SpaceError, match=r"no canonicaliser named 'mine'.*nasbench201"):
        SearchSpace(choices, canonicaliser="mine").hash({"a": "x"}, isomorphic=True)
    with pytest.raises(SpaceError, match="registered already"):
        register_canonicaliser("nasbench201", lambda architecture: 0)


def test_size_counts_conditions() -> None:
    # plain: 1; deep: depth 1, or depth 2 or 4 with two operations; times 2**3 subsets, times 3 pairs.
    assert NESTED.size() == (1 + 1 + 2 * 2) * 8 * 3 == len(set(NESTED.enumerate()))


def test_size_of_what_cannot_be_listed() -> None:
    wide = [Subset(f"s{i}", tuple(range(60))) for i in range(50)]
    assert SearchSpace(wide).size() == 2**3000
    at_most_two = SearchSpace(wide[:1], constraints=[Constraint.total("few", wide[:1], most=2)])
    assert at_most_two.size() == 1 + 60 + 60 * 59 // 2
    last = SearchSpace([Categorical(f"c{i}", tuple("abc")) for i in range(200)])
    assert last.at(3**200 - 1) == {f"c{i}": "c" for i in range(200)}
    assert next(last.enumerate(3**150)) == last.at(3**150)
    with pytest.raises(IndexError, match="not -1"):
        last.at(-1)


def test_too_entangled_to_count() -> None:
    choices = [Ordinal(f"o{i}", (0, 2**i)) for i in range(24)]
    space = SearchSpace(choices, constraints=[Constraint.total("sum", choices, most=10**6)])
    with pytest.raises(SpaceError, match="tie too many choices together"):
        space.size()
    assert sum(v for v in space.sample(Rng(0)).values() if isinstance(v, int)) <= 10**6


def test_constraints() -> None:
    widths = [Ordinal(f"w{i}", (8, 16, 32)) for i in range(3)]
    constraints = [
        Constraint.total("width", widths, least=40, most=64),
        Constraint.forbid("no 8 before 32", Term("w0", (8,)), Term("w1", (32,))),
    ]
    space = SearchSpace(widths, constraints=constraints)
    expected = [
        w for w in itertools.product((8, 16, 32), repeat=3) if 40 <= sum(w) <= 64 and not (w[0] == 8 and w[1] == 32)
    ]
    assert [tuple(a.values()) for a in space.enumerate()] == expected
    assert space.size() == len(expected)
    with pytest.raises(ArchitectureError, match="breaks the constraint 'width'"):
        space.validate({"w0": 8, "w1": 8, "w2": 8})
    nothing = SearchSpace(widths, constraints=[Constraint.total("width", widths, most=1)])
    assert nothing.size() == 0
    with pytest.raises(SpaceError, match=r"cannot sample: none of 10000 .*'width'"):
        nothing.sample(Rng(0))
    with pytest.raises(SpaceError, match="'relu', which cannot be summed"):
        Constraint.total("t", [Ordinal("act", ("relu", 1))], most=1)


def test_predicates_are_kept_where_they_are_held_and_size_ignores_them() -> None:
    named = SearchSpace([Ordinal("a", (1, 2, 3)), Ordinal("b", (1, 2, 3))], predicates=["different"])
    held = named.with_predicates({"different": lambda architecture: architecture["a"] != architecture["b"]})
    assert held == named
    assert named.validate({"a": 1, "b": 1})
    with pytest.raises(ArchitectureError, match="'different'"):
        held.validate({"a": 1, "b": 1})
    rng = Rng(0)
    for _ in range(50):
        parent = held.sample(rng)
        assert parent["a"] != parent["b"]
        child = held.mutate(parent, rng)
        assert child["a"] != child["b"]
    assert held.size() == named.size() == 9
    assert len(list(held.enumerate())) == 6
    assert len(list(named.enumerate())) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bodi": "deep"}, "'bodi', which is no choice of this search space; did you mean 'body'"),
        ({"body": None}, "choice 'body': None is no decision"),
        ({"body": "wide"}, "choice 'body': 'wide' is not one of plain, deep"),
        ({"body": 0}, "choice 'body': 0 is not one of plain, deep"),
        ({"depth": 3}, "choice 'depth': 3 is not one of 1, 2, 4"),
        ({"depth": True}, "choice 'depth': True is not one of 1, 2, 4"),
        ({"second": "conv3"}, r"choice 'second' \(at a.op, b.op\): 'conv3' is not one of conv, pool"),
        ({"a.op": "pool"}, "is one decision, but the architecture gives it 'conv' and 'pool'"),
        ({"skips": [0, 3]}, r"choice 'skips': \[0, 3\] is not a list of any number of the inputs 0, 1, 2"),
        ({"skips": [0, 0]}, "choice 'skips'"),
        ({"skips": 1}, "choice 'skips': 1 is not a list"),
        ({"skips": [True]}, "is no decision"),
        ({"pair": ["left"]}, "a list of 2 of the inputs 'left', 'middle', 'right'"),
        ({"pair": {"left": 1}}, "choice 'pair': .* is no decision"),
    ],
)
def test_wrong_architectures(change: dict[str, Any], message: str) -> None:
    right = {"body": "deep", "depth": 2, "second": "conv", "skips": [0], "pair": ["left", "right"]}
    assert NESTED.validate(right)
    with pytest.raises(ArchitectureError, match=message):
        NESTED.validate({**right, **change})


def test_missing_choice_and_members() -> None:
    with pytest.raises(
        ArchitectureError, match=r"no decision for choice 'second' \(at a.op, b.op\); expected one of conv"
    ):
        NESTED.validate({"body": "deep", "depth": 2, "skips": [], "pair": ["left", "right"]})
    by_member = NESTED.validate({"body": "deep", "depth": 2, "b.op": "pool", "skips": [], "pair": ["left", "right"]})
    assert by_member["second"] == "pool"
    with pytest.raises(ArchitectureError, match="an architecture is an object"):
        NESTED.validate([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match="it has no choices"):
        SearchSpace([]).validate({"a": 1})


def test_values_come_back_in_the_form_of_the_space() -> None:
    space = SearchSpace([Ordinal("rate", (1, 0.5)), Ordinal("bias", (False, True))])
    read = space.validate({"rate": 1.0, "bias": True})
    assert type(read["rate"]) is int
    assert space.hash({"rate": 1.0, "bias": True}) == space.hash({"rate": 1, "bias": True})
    with pytest.raises(ArchitectureError, match="'bias'"):
        space.validate({"rate": 1, "bias": 1})


def test_sampling_is_uniform() -> None:
    rng = Rng(11)
    counts = Counter(NESTED.sample(rng)["pair"] for _ in range(3000))
    assert set(counts) == {("left", "middle"), ("left", "right"), ("middle", "right")}
    assert min(counts.values()) > 900
    assert len({NESTED.sample(rng)["skips"] for _ in range(300)}) == 8


def test_mutation_reaches_all_neighbours() -> None:
    rng = Rng(1)
    parent = NESTED.validate({"body": "plain", "skips": [1], "pair": ["left", "right"]})
    children = {NESTED.mutate(parent, rng) for _ in range(2000)}
    assert {c for c in children if c["body"] == "plain"} == {
        n for n in NESTED.neighbours(parent) if n["body"] == "plain"
    }
    assert {(c.get("depth"), c.get("second")) for c in children if c["body"] == "deep"} == {
        (1, None), (2, "conv"), (2, "pool"), (4, "conv"), (4, "pool"),
    }  # fmt: skip


def test_crossover_takes_from_both_parents(nasbench201: SearchSpace) -> None:
    rng = Rng(3)
    a, b = nasbench201.at(0), nasbench201.at(nasbench201.size() - 1)
    children = [nasbench201.crossover(a, b, rng) for _ in range(200)]
    assert {value for child in children for value in child.values()} == {"none", "avg_pool_3x3"}
    assert len(set(children)) > 40


def test_architecture_is_an_immutable_value() -> None:
    architecture = Architecture({"b": [2, 1], "a": "x"})
    assert architecture == {"a": "x", "b": [2, 1]}
    assert architecture != {"a": "x"}
    assert architecture != 3
    assert {architecture: 1}[Architecture({"a": "x", "b": (2, 1)})] == 1
    assert copy.deepcopy(architecture) == pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301
    with pytest.raises(TypeError):
        architecture["a"] = "y"  # type: ignore[index]
    document = architecture.to_json()
    document["b"].append(3)
    assert architecture["b"] == (2, 1)
    assert Architecture.from_json({"a": 1}).identity == Architecture({"a": 1.0}).identity


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical("a", ()), "choice 'a' has no candidates"),
        (lambda: Categorical("a", ("x", "x")), "'x' twice"),
        (lambda: Categorical("a", (1,)), "the candidate 1 has no name"),  # type: ignore[arg-type]
        (lambda: Categorical("", ("x",)), "a name of 1 to 256"),
        (lambda: Categorical("a\n", ("x",)), "printable"),
        (lambda: Ordinal("a", (1, 1.0)), "twice"),
        (lambda: Ordinal("a", (float("nan"),)), "nan"),
        (lambda: Ordinal("a", (2**60,)), "2\\*\\*53"),
        (lambda: Subset("a", (0, 1), 3), "chooses 3 of 2 inputs; give a number from 1 to 2"),
        (lambda: Subset("a", (0, 1), 0), "chooses 0 of 2"),
        (lambda: SearchSpace([Ordinal("a", (1,)), Ordinal("a", (2,))]), "two choices have the name 'a'"),
        (
            lambda: SearchSpace([Ordinal("a", (1,), when=((Term("b", (1,)),),))]),
            "asks for 'b', which is no earlier choice",
        ),
        (
            lambda: SearchSpace([Ordinal("b", (1,)), Ordinal("a", (1,), when=((Term("b", (2,)),),))]),
            "asks for 2, which choice 'b' does not offer",
        ),
        (lambda: Constraint("c", ()), "has no bound"),
        (lambda: Constraint("c", (), most=float("inf")), "not a finite number"),
    ],
)
def test_wrong_spaces(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()
