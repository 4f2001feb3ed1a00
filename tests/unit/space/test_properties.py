"""What holds in every search space."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archsearch.space import (
    Architecture,
    Rng,
    SearchSpace,
    SpaceError,
    Subset,
    architecture_from_nni,
    architecture_to_nni,
    digest,
    space_from_nni,
    space_to_nni,
)

from .spaces import spaces

SEEDS = st.integers(0, 2**31 - 1)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def brute_force(space: SearchSpace) -> set[Architecture]:
    found = set()
    for decisions in itertools.product(*(list(choice.iterate()) for choice in space)):
        given_all, data = dict(zip((c.name for c in space), decisions, strict=True)), {}
        for choice in space:
            if choice.active(data):
                data[choice.name] = given_all[choice.name]
        if all(constraint.allows(data) for constraint in space.constraints):
            found.add(Architecture(data))
    return found


def small(space: SearchSpace) -> SearchSpace:
    """As many of the first choices as can be listed in no time, and the constraints on these."""
    kept, total = [], 1
    for choice in space:
        total *= choice.count
        if total > 300:
            break
        kept.append(choice)
    names = {choice.name for choice in kept}
    return SearchSpace(kept, constraints=[c for c in space.constraints if {t.choice for t, _ in c.terms} <= names])


@quick
@given(spaces(), SEEDS)
def test_json_round_trips(space: SearchSpace, seed: int) -> None:
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.digest == space.digest
    architecture = space.sample(Rng(seed))
    read = again.validate(json.loads(json.dumps(architecture.to_json())))
    assert read == architecture
    assert hash(read) == hash(architecture)
    assert again.hash(read) == space.hash(architecture) == architecture.identity == digest(architecture.to_json())


@quick
@given(spaces(), SEEDS)
def test_encoding_reads_back(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(Rng(seed))
    vector = space.encode(architecture)
    assert len(vector) == len(space.columns)
    assert all(0.0 <= number <= 1.0 for number in vector)
    assert space.decode(vector) == architecture


def check_child(space: SearchSpace, parent: Architecture, child: Architecture) -> None:
    assert space.validate(dict(child)) == child
    kept = [name for name in parent if name in child]
    changed = [name for name in kept if parent[name] != child[name]]
    assert len(changed) == 1
    (name,) = changed
    choice = space[name]
    if isinstance(choice, Subset):
        before, after = set(parent[name]), set(child[name])  # type: ignore[arg-type]
        assert (len(before - after), len(after - before)) in ({(1, 1)} if choice.choose else {(0, 1), (1, 0), (1, 1)})
    # What came or went did so because of a condition on something that changed, came or went.
    moved = {name, *(set(parent) ^ set(child))}
    for other in moved - {name}:
        assert any(term.choice in moved for terms in space[other].when for term in terms)


@quick
@given(spaces(), SEEDS)
def test_mutate_changes_one_active_decision(space: SearchSpace, seed: int) -> None:
    rng = Rng(seed)
    parent = space.sample(rng)
    if all(space[name].count == 1 for name in parent):
        with pytest.raises(SpaceError, match="no decision of this architecture can change"):
            space.mutate(parent, rng)
    else:
        check_child(space, parent, space.mutate(parent, rng))


@quick
@given(spaces(constrained=True), SEEDS)
def test_constrained_operations_keep_constraints(space: SearchSpace, seed: int) -> None:
    space, rng = small(space), Rng(seed)
    possible = brute_force(space)
    assert space.size() == len(possible)
    assert set(space.enumerate()) == possible
    if len(possible) < 3:
        return
    parent, other = space.sample(rng), space.sample(rng)
    assert {parent, other} <= possible
    near = set(space.neighbours(parent, rng))
    assert near <= possible
    assert parent not in near
    if near:
        check_child(space, parent, space.mutate(parent, rng))
    try:
        child = space.crossover(parent, other, rng)
    except SpaceError:
        return
    assert child in possible
    assert all(child[name] in (parent.get(name), other.get(name)) for name in child if name in parent or name in other)


@quick
@given(spaces(), st.integers(0, 500))
def test_enumeration_is_complete_and_resumes(space: SearchSpace, start: int) -> None:
    space = small(space)
    everything = list(space.enumerate())
    assert len(everything) == len(set(everything)) == space.size()
    assert set(everything) == brute_force(space)
    assert list(space.enumerate(start)) == everything[start:]
    assert len({space.hash(architecture) for architecture in everything}) == len(everything)
    assert len({tuple(space.encode(architecture)) for architecture in everything}) == len(everything)


@quick
@given(spaces(), SEEDS)
def test_neighbours_are_what_mutation_can_reach(space: SearchSpace, seed: int) -> None:
    parent = space.sample(Rng(seed))
    near = list(space.neighbours(parent))
    assert len(near) == len(set(near)) == sum(len(list(space[n].changes(d))) for n, d in parent.items())
    for child in near:
        check_child(space, parent, child)


@quick
@given(spaces(), SEEDS)
def test_nni_round_trip(space: SearchSpace, seed: int) -> None:
    again = space_from_nni(json.loads(json.dumps(space_to_nni(space))))
    assert [choice.fields() for choice in again] == [choice.fields() for choice in space]
    architecture = space.sample(Rng(seed))
    written: Any = json.loads(json.dumps(architecture_to_nni(space, architecture)))
    assert architecture_from_nni(space, written) == architecture
    bare = {name: value["_value"] for name, value in written.items()}
    assert architecture_from_nni(space, bare) == architecture


@quick
@given(spaces(), SEEDS)
def test_what_is_inactive_does_not_count(space: SearchSpace, seed: int) -> None:
    architecture = space.sample(Rng(seed))
    more = {choice.name: choice.default() for choice in space} | dict(architecture)
    assert space.validate(more) == architecture
    assert space.hash(more) == space.hash(architecture)
