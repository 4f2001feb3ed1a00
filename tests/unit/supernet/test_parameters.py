"""The likeliest architecture under the constraints of a space."""

from __future__ import annotations

import pytest

from archsearch.space import ArchitectureError, Categorical, Constraint, SearchSpace, Subset, Term
from archsearch.supernet.parameters import derive

OPTIONS = ("conv", "pool", "skip")
CHANCES = {"a": [0.5, 0.3, 0.2], "b": [0.6, 0.1, 0.3], "c": [0.8, 0.1, 0.1]}


def space(*constraints: Constraint) -> SearchSpace:
    return SearchSpace([Categorical(name, OPTIONS) for name in CHANCES], constraints=constraints)


def convolutions(**bounds: int) -> Constraint:
    return Constraint.count("convolutions", [Term(name, ("conv",)) for name in CHANCES], **bounds)


def test_without_constraints_each_choice_takes_its_likeliest() -> None:
    assert dict(derive(space(), CHANCES)) == {"a": "conv", "b": "conv", "c": "conv"}


def test_the_least_sure_choices_give_way() -> None:
    assert dict(derive(space(convolutions(most=2)), CHANCES)) == {"a": "pool", "b": "conv", "c": "conv"}
    assert dict(derive(space(convolutions(most=1)), CHANCES)) == {"a": "pool", "b": "skip", "c": "conv"}
    assert dict(derive(space(convolutions(most=0)), CHANCES)) == {"a": "pool", "b": "skip", "c": "pool"}


def test_several_constraints_are_kept_together() -> None:
    both = [convolutions(most=1), Constraint.count("skips", [Term(n, ("skip",)) for n in CHANCES], least=2)]
    found = dict(derive(space(*both), CHANCES))
    assert sorted(found.values()) == ["conv", "skip", "skip"]
    assert found["c"] == "conv"


@pytest.mark.parametrize(("choose", "least", "expected"), [(None, 1, (1,)), (None, 2, (0, 1)), (2, 1, (0, 1))])
def test_inputs_are_taken_that_a_constraint_asks_for(choose: int | None, least: int, expected: tuple[int, ...]) -> None:
    merged = Subset("merged", (0, 1, 2), choose=choose)
    asked = Constraint.count("some", [Term("merged", (i,)) for i in (0, 1)], least=least)
    chances = {"merged": [0.1, 0.4, 0.01] if choose is None else [0.3, 0.2, 0.5]}
    found = derive(SearchSpace([merged], constraints=[asked]), chances)["merged"]
    assert found == (expected if choose is None else (0, 2))


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(ArchitectureError, match="breaks the constraint 'convolutions'"):
        derive(space(convolutions(least=4)), CHANCES)


def test_a_predicate_is_kept_where_one_change_does() -> None:
    predicates = {"not alike": lambda architecture: len(set(architecture.values())) > 1}
    wanted = SearchSpace([Categorical(name, OPTIONS) for name in CHANCES], predicates=predicates)
    assert dict(derive(wanted, CHANCES)) == {"a": "pool", "b": "conv", "c": "conv"}
