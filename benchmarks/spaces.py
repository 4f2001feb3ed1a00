"""How fast the zoo's spaces are described, sampled, mutated and hashed, and what fixing costs beside building plainly.

    python benchmarks/spaces.py [SPACE …] [--seconds 0.5]

Rates are operations a second on one thread. `plain` is the time to build one architecture's network alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from archsearch import zoo
from archsearch.nn import describe, fix
from archsearch.registry import find, registered
from archsearch.space import Rng


def rate(work: Callable[[], Any], seconds: float) -> float:
    """Calls a second."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        work()
        calls += 1
    return calls / spent


def took(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(name: str, seconds: float) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    model = find("archsearch.spaces", name)()
    describing = took(lambda: describe(model))
    space, rng = describe(model), Rng(0)
    parent = space.sample(rng)
    rates = (
        rate(lambda: space.sample(rng), seconds),
        rate(lambda: space.mutate(parent, rng), seconds),
        rate(lambda: space.hash(space.sample(rng)), seconds),
    )
    fixing = took(lambda: fix(model, parent))
    zoo.architecture(name, parent)  # the space is kept from here on
    plain = took(lambda: zoo.build(name, parent))
    shown = "".join(f"{value:>12,.0f}" for value in rates)
    return f"{name:<20}{describing:>10.3f}{shown}{fixing:>10.3f}{plain:>10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spaces", nargs="*", metavar="SPACE")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each rate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("describe s", "sample/s", "mutate/s", "hash/s", "fix s", "plain s")
    print(
        f"{'space':<20}{heads[0]:>10}"
        + "".join(f"{h:>12}" for h in heads[1:4])
        + "".join(f"{h:>10}" for h in heads[4:])
    )
    for name in given.spaces or registered("archsearch.spaces"):
        print(measure(name, given.seconds), flush=True)


if __name__ == "__main__":
    main()
