from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.errors import UserError
from archsearch.space import (
    ArchitectureError,
    Constraint,
    Ordinal,
    SearchSpace,
    SpaceError,
    architecture_from_nni,
    space_from_nni,
    space_to_nni,
)

DOCUMENT: dict[str, Any] = {
    "formatVersion": 1,
    "choices": [
        {"name": "a", "type": "categorical", "candidates": ["x", "y"], "members": ["net.0", "net.1"]},
        {"name": "b", "type": "ordinal", "values": [1, 2.5, "z", False], "when": [[{"choice": "a", "in": ["x"]}]]},
        {"name": "c", "type": "subset", "candidates": [0, 1], "choose": None},
    ],
    "constraints": [{"name": "k", "terms": [{"choice": "c", "in": [0], "weight": 2}], "min": 0, "max": 1.5}],
    "predicates": ["small"],
    "canonicaliser": "nasbench201",
}


def test_every_field_round_trips() -> None:
    space = SearchSpace.from_json(DOCUMENT)
    assert space.to_json() == DOCUMENT
    assert space["net.1"].name == "a"
    assert space.predicates == ("small",)
    assert space.size() == 5 * 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), [], "the search space is an object"),
        (("formatVersion",), 2, "has version 2, and this archsearch reads 1"),
        (("formatVersion",), True, "has version True"),
        (("choices",), {}, "choices is a list"),
        (("extra",), 1, "unknown field 'extra'"),
        (("choices", 0), "a", r"choices\[0\] is an object, not 'a'"),
        (
            ("choices", 0, "type"),
            "layer",
            r"choices\[0\].type: 'layer' is no kind of choice; expected categorical, ordinal",
        ),
        (("choices", 0, "type"), ["categorical"], r"choices\[0\].type"),
        (("choices", 0, "name"), 3, r"choices\[0\].name is a string"),
        (("choices", 0, "candidates"), "xy", r"choices\[0\] is a list"),
        (
            ("choices", 0, "candidates"),
            [["x"]],
            r"choices\[0\]: candidates and values are strings, numbers or booleans",
        ),
        (("choices", 0, "candidates"), [], r"choices\[0\]: choice 'a' has no candidates"),
        (("choices", 0, "values"), [1], r"choices\[0\]: unknown field 'values'"),
        (("choices", 1, "when"), [{"choice": "a", "in": ["x"]}], r"choices\[1\].when\[0\] is a list"),
        (("choices", 1, "when", 0, 0, "choice"), "c", "'c', which is no earlier choice"),
        (("choices", 1, "when", 0, 0, "in"), [None], r"when\[0\]\[0\].in"),
        (("choices", 2, "choose"), 5, r"choices\[2\]: choice 'c' chooses 5 of 2 inputs"),
        (("choices", 2, "choose"), "2", "chooses '2' of 2 inputs"),
        (("constraints", 0, "max"), "1", r"constraints\[0\].max is a number"),
        (("constraints", 0, "terms", 0, "weight"), None, r"terms\[0\].weight is a number"),
        (("constraints", 0, "terms", 0, "choice"), "q", "constraint 'k' asks for 'q', which is no choice"),
        (("predicates",), [1], r"predicates\[0\] is a string"),
        (("canonicaliser",), 1, "canonicaliser is a string"),
    ],
)
def test_wrong_documents(path: tuple[Any, ...], value: Any, message: str) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    if not path:
        document = value
    else:
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_json(document)


def test_missing_fields_and_sizes() -> None:
    with pytest.raises(SpaceError, match="the field 'choices' is missing"):
        SearchSpace.from_json({"formatVersion": 1})
    with pytest.raises(SpaceError, match=r"choices\[0\]: the field 'choose' is missing"):
        SearchSpace.from_json({"formatVersion": 1, "choices": [{"name": "c", "type": "subset", "candidates": [0]}]})
    with pytest.raises(SpaceError, match="at most 10000"):
        SearchSpace.from_json({"formatVersion": 1, "choices": [{}] * 10_001})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_user_error_and_never_a_traceback(data: st.DataObject) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    inner = document
    while True:
        key = data.draw(st.sampled_from(list(range(len(inner)) if isinstance(inner, list) else inner)))
        if isinstance(inner[key], dict | list) and inner[key] and data.draw(st.booleans()):
            inner = inner[key]
            continue
        inner[key] = data.draw(ANY)
        break
    try:
        space = SearchSpace.from_json(document)
    except UserError:
        return
    assert SearchSpace.from_json(space.to_json()) == space


NNI: dict[str, Any] = {
    "first_conv": {"_type": "layer_choice", "_value": ["conv5x5_6", "conv5x5_16"]},
    "skip": {"_type": "input_choice", "_value": {"candidates": ["", ""], "n_chosen": 1}},
    "any": {"_type": "input_choice", "_value": {"candidates": ["l1", "l2"], "n_chosen": None}},
    "width": {"_type": "choice", "_value": [8, 16]},
}


def test_nni_space_and_loose_architectures() -> None:
    space = space_from_nni(NNI)
    assert space["skip"].options == (0, 1)
    written = {
        "first_conv": {"_value": "conv5x5_16", "_idx": 1},
        "skip": {"_value": ["1"], "_idx": [1]},
        "any": {"_value": [], "_idx": []},
        "width": {"_value": 8, "_idx": 0},
    }
    expected = {"first_conv": "conv5x5_16", "skip": [1], "any": [], "width": 8}
    assert architecture_from_nni(space, written) == expected
    assert architecture_from_nni(space, {"first_conv": 1, "skip": 1, "any": [], "width": 8}) == expected
    loose = {"first_conv": [False, True], "skip": [False, True], "any": ["l2", "l1"], "width": [16]}
    assert architecture_from_nni(space, loose) == {
        "first_conv": "conv5x5_16",
        "skip": [1],
        "any": ["l1", "l2"],
        "width": 16,
    }
    again = space_to_nni(space)
    assert again["first_conv"] == NNI["first_conv"]
    assert again["any"] == NNI["any"]
    assert space_from_nni(again) == space


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_conv": {"_value": "x", "_idx": 7}}, "choice 'first_conv': 7 is not an index from 0 to 1"),
        ({"first_conv": {"_value": "conv3"}}, "choice 'first_conv': 'conv3' is not one of"),
        ({"first_conv": ["conv5x5_6", "conv5x5_16"]}, "choice 'first_conv'"),
        ({"skip": {"_idx": [0, 1], "_value": []}}, "choice 'skip'"),
        ({"skip": {"_idx": ["0"]}}, "'0' is not an index"),
        ({"third": {"_value": "x"}}, "'third', which is no choice"),
        ({"first_conv": {"_value": None}}, "'first_conv': None is no decision"),
    ],
)
def test_wrong_nni_architectures(change: dict[str, Any], message: str) -> None:
    right = {"first_conv": "conv5x5_6", "skip": ["0"], "any": ["l1"], "width": 16}
    space = space_from_nni(NNI)
    assert architecture_from_nni(space, right)
    with pytest.raises(ArchitectureError, match=message):
        architecture_from_nni(space, {**right, **change})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "NNI's search space is an object"),
        ({"a": ["x"]}, "a: expected an object with _type and _value"),
        ({"a": {"_type": "uniform", "_value": [0, 1]}}, "a._type: 'uniform' is not known"),
        ({"a": {"_type": "layer_choice", "_value": "x"}}, "a._value: expected a list of names"),
        ({"a": {"_type": "input_choice", "_value": ["x"]}}, "a._value: expected {candidates"),
        ({"a": {"_type": "input_choice", "_value": {"candidates": ["x", "y"], "n_chosen": 3}}}, "chooses 3 of 2"),
    ],
)
def test_wrong_nni_spaces(document: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space_from_nni(document)


def test_constraints_have_no_nni_form() -> None:
    width = Ordinal("w", (1, 2))
    with pytest.raises(SpaceError, match="has no constraints"):
        space_to_nni(SearchSpace([width], constraints=[Constraint.total("t", [width], most=1)]))
