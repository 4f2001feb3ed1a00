"""Random search spaces for the property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from archsearch.space import Categorical, Choice, Constraint, Ordinal, SearchSpace, Subset, Term

NAMES = ["conv", "skip", "pool", "é", "zero \U0001f600"]
VALUES = st.sampled_from([0, 1, -3, 2.5, 16, 1e-3, "relu", "gelu"])


@st.composite
def choices(draw: st.DrawFn, name: str, earlier: list[Choice]) -> Choice:
    when: tuple[tuple[Term, ...], ...] = ()
    if earlier and draw(st.booleans()):
        when = tuple(draw(st.lists(terms(earlier), min_size=1, max_size=2)) for _ in range(draw(st.integers(1, 2))))
        when = tuple(map(tuple, when))
    kind = draw(st.sampled_from(["categorical", "ordinal", "subset", "free"]))
    if kind == "categorical":
        return Categorical(name, tuple(NAMES[: draw(st.integers(1, 4))]), when=when)
    if kind == "ordinal":
        return Ordinal(name, tuple(draw(st.lists(VALUES, min_size=1, max_size=4, unique=True))), when=when)
    inputs = draw(st.integers(1, 4))
    named = draw(st.booleans())
    candidates = tuple(f"in{i}" for i in range(inputs)) if named else tuple(range(inputs))
    return Subset(name, candidates, None if kind == "free" else draw(st.integers(1, inputs)), when=when)


@st.composite
def terms(draw: st.DrawFn, among: list[Choice]) -> Term:
    choice = draw(st.sampled_from(among))
    options = draw(st.lists(st.sampled_from(choice.options), min_size=1, max_size=2, unique=True))
    return Term(choice.name, tuple(options))


@st.composite
def spaces(draw: st.DrawFn, constrained: bool = False) -> SearchSpace:
    made: list[Choice] = []
    for i in range(draw(st.integers(1, 5))):
        made.append(draw(choices(f"c{i}", made)))
    constraints = []
    if constrained:
        for i in range(draw(st.integers(1, 2))):
            held = draw(st.lists(terms(made), min_size=1, max_size=4))
            constraints.append(Constraint.count(f"at most {i}", held, most=draw(st.integers(0, len(held)))))
    return SearchSpace(made, constraints=constraints)
