from __future__ import annotations

from pathlib import Path

from archsearch.registry import registered
from archsearch.zoo.table import HEAD, row

PAGE = Path(__file__).resolve().parents[3] / "docs/zoo.md"


def test_the_page_is_of_this_zoo() -> None:
    text = PAGE.read_text()
    assert text.startswith(HEAD), "run `python -m archsearch.zoo.table > docs/zoo.md`"
    rows = text.removeprefix(HEAD).splitlines()
    assert [line.split("`")[1] for line in rows] == registered("archsearch.spaces")


def test_a_row() -> None:
    measured = row("nasbench201", samples=3, channels=4, cells=1)
    assert str(measured) == str(row("nasbench201", samples=3, channels=4, cells=1))
    assert measured.size == 15_625
    assert measured.params[0] <= measured.params[1]
    assert str(measured).startswith("| `nasbench201` | 15,625 | 6 | 0.0")
    assert str(measured).endswith("| `ResNet` |")
