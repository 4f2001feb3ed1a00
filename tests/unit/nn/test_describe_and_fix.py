from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import nn as tnn

from archsearch import nn
from archsearch.errors import UserError
from archsearch.nn import mutables
from archsearch.space import ArchitectureError, Constraint, Rng, SpaceError, Term


@pytest.fixture(autouse=True)
def _fresh_warning() -> Iterator[None]:
    mutables._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nn.StandaloneWarning)
        yield


class Net(tnn.Module):
    """Every kind of choice: nested, labelled, in arguments, with arithmetic, repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.ValueChoice([3, 5])
        width = nn.ValueChoice([4, 8], label="width")
        self.stem = nn.Conv2d(1, width, self.kernel, padding=self.kernel // 2)
        self.norm = nn.BatchNorm2d(width)
        inner = nn.LayerChoice([nn.Conv2d(width, width * 2, 1), nn.Conv2d(width, width * 2, 3, padding=1)])
        self.op = nn.LayerChoice({"train": nn.Conv2d(width, width * 2, 1), "deep": tnn.Sequential(tnn.ReLU(), inner)})
        self.blocks = nn.Repeat(
            lambda i: nn.LayerChoice({"id": tnn.Identity(), "conv": nn.Conv2d(width * 2, width * 2, 1)}), (1, 3)
        )
        self.skip = nn.InputChoice(2, n_chosen=None)
        self.doubled = width * 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.op(self.norm(self.stem(x)))
        y = self.blocks(x)
        assert x.shape[1] == self.doubled()
        out: Tensor = self.skip([x, y])
        return out


NET = Net()
SPACE = nn.describe(NET)
IMAGES = torch.randn(2, 1, 6, 6)


def test_describe_names_conditions_and_size() -> None:
    assert [choice.name for choice in SPACE] == [
        "kernel", "width", "op", "op.deep.1", "blocks.depth", "blocks.0", "blocks.1", "blocks.2", "skip",
    ]  # fmt: skip
    assert SPACE["op.deep.1"].when == ((Term("op", ("deep",)),),)
    assert SPACE["blocks.0"].when == ()
    assert SPACE["blocks.1"].when == ((Term("blocks.depth", (2, 3)),),)
    assert SPACE.size() == 2 * 2 * (1 + 2) * (2 + 4 + 8) * 4
    assert SPACE["stem.out_channels"].name == "width"
    assert nn.describe(Net()).digest == SPACE.digest
    assert nn.describe(tnn.Linear(2, 2)).choices == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_sample_fix_forward(seed: int) -> None:
    architecture = SPACE.sample(Rng(seed))
    before = {name: value.clone() for name, value in NET.state_dict().items()}
    fixed = nn.fix(NET, architecture)
    assert nn.describe(fixed).choices == ()
    assert not any(isinstance(module, nn.Mutable) for module in fixed.modules())
    assert fixed(IMAGES).shape == (2, 2 * int(architecture["width"]), 6, 6)  # type: ignore[arg-type]
    assert {name.split(".")[0] for name in fixed.state_dict()} <= {"stem", "norm", "op", "blocks"}
    assert not any(name.split(".")[1] in ("inner", "train", "deep") for name in fixed.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in NET.state_dict().items())
    assert nn.describe(NET) == SPACE


def test_fixed_network_is_plain_and_keeps_weights() -> None:
    chosen = {
        "kernel": 3, "width": 4, "op": "deep", "op.deep.1": "1",
        "blocks.depth": 2, "blocks.0": "conv", "blocks.1": "id", "skip": [1],
    }  # fmt: skip
    fixed: Any = nn.fix(NET.train(), chosen)
    assert type(fixed.stem) is tnn.Conv2d
    assert list(fixed.state_dict()) == [
        "stem.weight", "stem.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked", "op.1.weight", "op.1.bias", "blocks.0.weight", "blocks.0.bias",
    ]  # fmt: skip
    original: Any = NET
    assert torch.equal(fixed.stem.weight, original.stem.inner.weight)
    assert torch.equal(fixed.op[1].weight, original.op["deep"][1]["1"].inner.weight)
    assert fixed.stem.weight.data_ptr() != original.stem.inner.weight.data_ptr()
    assert type(fixed.blocks) is tnn.Sequential
    assert len(fixed.blocks) == 2
    assert fixed.kernel() == 3
    wide: Any = nn.fix(NET, {**chosen, "width": 8, "kernel": 5})
    assert wide.stem.weight.shape == (8, 1, 5, 5)
    assert wide.norm.num_features == 8
    assert all(module.training for module in wide.modules())
    assert not any(module.training for module in nn.fix(NET.eval(), {**chosen, "width": 8}).modules())


def test_standalone_takes_the_first_candidates_with_one_warning() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        alone = NET.eval()(IMAGES)
        NET(IMAGES)
    assert [w.category for w in warned] == [nn.StandaloneWarning]
    assert "first candidate of each is taken" in str(warned[0].message)
    assert torch.equal(alone, nn.fix(NET, SPACE.default())(IMAGES))
    assert SPACE.default()["skip"] == (0, 1)
    assert torch.equal(alone, nn.fix(NET)(IMAGES))
    assert SPACE.default()["blocks.depth"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "wide"}, "choice 'op': 'wide' is not one of train, deep"),
        ({"opp": "deep"}, "'opp', which is no choice of this search space; did you mean 'op'"),
        ({"width": 5}, r"choice 'width' \(at stem.out_channels, .*\): 5 is not one of 4, 8"),
        ({"op": "deep"}, "no decision for choice 'op.deep.1'"),
        ({"skip": [2]}, "choice 'skip'"),
    ],
)
def test_wrong_architectures(change: dict[str, Any], message: str) -> None:
    right = SPACE.default().to_json()
    assert nn.fix(NET, right)
    with pytest.raises(ArchitectureError, match=message):
        nn.fix(NET, {**right, **change})


def test_an_architecture_for_a_plain_network_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="it has no choices"):
        nn.fix(tnn.Linear(2, 2), {"op": "a"})
    with pytest.raises(ArchitectureError, match="no decision for choice"):
        nn.fix(NET, {})


def identities(*names: str, label: str | None = None) -> nn.LayerChoice:
    return nn.LayerChoice({name: tnn.Identity() for name in names}, label=label)


def test_labels_share_one_decision() -> None:
    model = tnn.Sequential(identities("a", "b", label="op"), tnn.Sequential(identities("a", "b", label="op")))
    space = nn.describe(model)
    assert space.size() == 2
    assert space["op"].members == ("0", "1.0")
    different = tnn.Sequential(identities("a", "b", label="op"), tnn.Sequential(identities("a", "c", label="op")))
    with pytest.raises(SpaceError, match=r"label 'op' but differ: 0 offers one of a, b, 1.0 offers one of a, c"):
        nn.describe(different)
    clash = tnn.Sequential(identities("a", "b"), identities("a", "b", label="0"))
    with pytest.raises(SpaceError, match="the label '0' is also the path of a choice without a label"):
        nn.describe(clash)


def test_shared_label_in_two_branches_is_active_in_either() -> None:
    branch = {name: identities("x", "y", label="inner") for name in ("left", "right")}
    outer = nn.LayerChoice({**branch, "none": tnn.Identity()}, label="outer")
    space = nn.describe(tnn.Sequential(outer))
    assert space.size() == 2 * 2 + 1
    assert [list(a.items()) for a in space.enumerate(4)] == [[("outer", "none")]]


def test_a_choice_before_the_one_it_depends_on_is_put_after() -> None:
    early = identities("x", "y", label="shared")
    outer = nn.LayerChoice({"a": identities("x", "y", label="shared"), "b": tnn.Identity()})
    gate = nn.LayerChoice({"on": early, "off": tnn.Identity()}, label="gate")
    space = nn.describe(tnn.Sequential(gate, outer))
    assert [choice.name for choice in space] == ["gate", "1", "shared"]
    assert space.size() == 3 * 2 + 1
    a_over_b = nn.LayerChoice({"x": identities("p", "q", label="B"), "y": tnn.Identity()}, label="A")
    b_over_a = nn.LayerChoice({"p": identities("x", "y", label="A"), "q": tnn.Identity()}, label="B")
    with pytest.raises(SpaceError, match="'A', 'B' depend on each other through shared labels"):
        nn.describe(tnn.Sequential(nn.LayerChoice([a_over_b, b_over_a])))


def test_one_module_in_two_places_stays_one() -> None:
    shared = nn.LayerChoice([tnn.Linear(3, 3), tnn.Linear(3, 3)])
    model = tnn.ModuleDict({"a": shared, "b": tnn.Sequential(shared)})
    assert [choice.name for choice in nn.describe(model)] == ["a"]
    fixed = nn.fix(model, {"a": "1"})
    assert isinstance(fixed, tnn.ModuleDict)
    assert fixed["a"] is fixed["b"][0]  # type: ignore[index]


def test_constraints_and_predicates_of_a_model() -> None:
    class Bounded(tnn.Sequential):
        space_constraints = (Constraint.forbid("not both", Term("0", ("b",)), Term("1", ("b",))),)
        space_predicates = {"some": lambda architecture: "b" in architecture.values()}  # noqa: RUF012

    model = Bounded(identities("a", "b"), identities("a", "b"))
    space = nn.describe(model)
    assert space.size() == 3
    assert len(list(space.enumerate())) == 2
    assert space.predicates == ("some",)
    assert nn.describe(nn.fix(model, {"0": "a", "1": "b"})).choices == ()


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [4.0, 4.0]), ("mean", [2.0, 2.0]), ("concat", [1.0, 1.0, 3.0, 3.0]), ("none", None)],
)
def test_input_choice_reductions(reduction: Any, expected: list[float] | None) -> None:
    model = tnn.ModuleDict({"pick": nn.InputChoice(3, 2, reduction)})
    inputs = [torch.full((1, 2), float(i)) for i in (1, 2, 3)]
    out = nn.fix(model, {"pick": [0, 2]})["pick"](inputs)  # type: ignore[index]
    if expected is None:
        assert [x[0, 0].item() for x in out] == [1.0, 3.0]
    else:
        assert out.tolist() == [expected]
    with pytest.raises(UserError, match="3 inputs was given 2"):
        model["pick"](inputs[:2])


def test_input_choice_by_name_and_empty() -> None:
    model = tnn.ModuleDict({"pick": nn.InputChoice(choose_from=["x", "y"], n_chosen=None)})
    inputs = {"y": torch.ones(1, 2), "x": torch.full((1, 2), 5.0)}
    assert nn.fix(model, {"pick": ["x"]})["pick"](inputs).tolist() == [[5.0, 5.0]]  # type: ignore[index]
    assert nn.fix(model, {"pick": []})["pick"](inputs).tolist() == [[0.0, 0.0]]  # type: ignore[index]
    assert nn.ChosenInputs([], 2, "concat")([torch.ones(1, 2)] * 2).shape == (1, 0)
    assert nn.ChosenInputs([], 2, "none")([torch.ones(1, 2)] * 2) == []


def test_wrapped_class_with_choices_inside_and_derived_depth() -> None:
    class Block(tnn.Module):
        def __init__(self, width: Any, layers: Any = 1) -> None:
            super().__init__()
            self.body = nn.LayerChoice({"one": nn.Linear(2, width), "two": nn.Linear(2, width, bias=False)})

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out

    width = nn.ValueChoice([2, 4])
    depth = nn.ValueChoice([1, 2], label="depth")
    model = tnn.Sequential(nn.Repeat([tnn.Identity() for _ in range(4)], depth * 2), nn.wrap(Block)(width))
    space = nn.describe(model)
    assert [choice.name for choice in space] == ["depth", "1.width", "1.body"]
    fixed: Any = nn.fix(model, {"depth": 2, "1.width": 4, "1.body": "two"})
    assert len(fixed[0]) == 4
    assert list(fixed.state_dict()) == ["1.body.weight"]
    assert fixed(torch.ones(1, 2)).shape == (1, 4)


def test_arithmetic() -> None:
    a, b = nn.ValueChoice([2, 3], label="a"), nn.ValueChoice([5, 7], label="b")
    expressions = [a + b, 1 + a, b - a, 10 - a, a * b, 2 * a, b / a, 1 / a, b // a, 9 // a, b % a, 9 % a, a**2, -a]
    expressions += [nn.maximum(a, b, 6), nn.minimum(a, 1), a.map(str), round(b / a, 1)]
    expected = [7, 3, 3, 8, 10, 4, 2.5, 0.5, 2, 4, 1, 1, 4, -2, 6, 1, "2", 2.5]
    assert [expression() for expression in expressions] == expected
    with pytest.raises(UserError, match=r"has no value while the model is built.*archsearch.nn.wrap"):
        tnn.Conv2d(3, a, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no value"):
        bool(a)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LayerChoice([]), "no candidates"),
        (lambda: nn.LayerChoice({"a.b": tnn.Identity()}), "'a.b' is empty, no string or has a dot|'a.b' is empty"),
        (lambda: nn.LayerChoice([3]), "candidate '0' is a int"),  # type: ignore[list-item]
        (lambda: nn.LayerChoice([tnn.Identity()], label=""), "a label is a non-empty string"),
        (lambda: nn.InputChoice(2, 3, label="skip"), "choice 'skip' chooses 3 of 2 inputs"),
        (lambda: nn.InputChoice(0), "n_candidates is a whole number from 1 on, not 0"),
        (lambda: nn.InputChoice(2, reduction="max"), "no reduction is named 'max'"),  # type: ignore[arg-type]
        (lambda: nn.ValueChoice([]), "no values"),
        (lambda: nn.ValueChoice([1, 1]), "twice"),
        (lambda: nn.Repeat(tnn.Identity(), (3, 1)), r"\(least, greatest\), not \(3, 1\)"),
        (lambda: nn.Repeat(tnn.Identity(), nn.ValueChoice(["a"])), "a depth is a whole number"),
        (lambda: nn.Repeat([tnn.Identity()], 2), "1 blocks are too few for a depth of 2"),
        (lambda: nn.Repeat(lambda i: i, 1), "block 0 is a int"),  # type: ignore[arg-type, return-value]
        (lambda: nn.Repeat(tnn.Identity(), 1, label="depth"), "a label is for a range"),
    ],
)
def test_wrong_choices(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_modules_of_torch_stand_here() -> None:
    assert type(nn.Linear(2, 3)) is tnn.Linear
    assert isinstance(nn.Linear(2, nn.ValueChoice([3])), nn.ValueModule)
    with pytest.raises(AttributeError, match="no attribute 'Lniear'"):
        _ = nn.Lniear


def test_repeat_copies_a_module_block_by_block() -> None:
    block = tnn.Sequential(nn.LayerChoice([nn.Linear(2, 2), tnn.Identity()]), identities("a", "b", label="shared"))
    model = tnn.ModuleDict({"body": nn.Repeat(block, (0, 2))})
    space = nn.describe(model)
    assert [choice.name for choice in space] == ["body.depth", "body.0.0", "shared", "body.1.0"]
    assert space.size() == 1 + 2 * 2 + 2 * 2 * 2
    x = torch.ones(1, 2)
    assert torch.equal(nn.fix(model, {"body.depth": 0})["body"](x), x)  # type: ignore[index]
    assert torch.equal(model["body"](x), x)
    two = nn.fix(model, {"body.depth": 2, "body.0.0": "1", "shared": "a", "body.1.0": "0"})
    assert list(two.state_dict()) == ["body.1.0.weight", "body.1.0.bias"]
    assert nn.describe(copy.deepcopy(model)) == space
