"""User code: found, called by its signature, and told in words what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from archsearch.errors import UserError
from archsearch.evaluate.models import build_space
from archsearch.evaluate.user import UserEvaluator, import_target
from archsearch.spec.experiment import ModelSpace

Code = Callable[[str, str], str]


def test_nested_attributes_are_found(code: Code) -> None:
    code("nested", "class Outer:\n    @staticmethod\n    def inner():\n        return 3\n")
    assert import_target("nested:Outer.inner")() == 3


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("absent_module:f", None, r"there is no module 'absent_module' in .*user-code or among the installed packages"),
        ("absent_pkg.sub:f", None, r"no module 'absent_pkg' .*put absent_pkg.py there"),
        (
            "broken_a:f",
            "import no_such_dependency\n",
            r"imports 'no_such_dependency', which is not installed .*broken_a.py, line 1",
        ),
        ("broken_b:f", "def f(:\n", r"does not import: .*broken_b.py, line 1"),
        ("broken_c:f", "x = 1\nraise ValueError('bad table')\n", r"ValueError: bad table .*broken_c.py, line 2"),
        ("broken_d:f", "from broken_d import g\n", r"does not import: ImportError: .*broken_d.py, line 1"),
        ("broken_e:fit", "def fitt(model, context): ...\n", r"broken_e.py\) has no 'fit'; it has fitt"),
    ],
)
def test_import_errors_name_module_attribute_and_place(code: Code, target: str, text: str | None, message: str) -> None:
    if text is not None:
        code(target.partition(":")[0], text)
    with pytest.raises(UserError) as caught:
        import_target(target)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert target in str(caught.value)


@pytest.mark.parametrize(
    ("signature", "config", "plain", "arguments"),
    [
        ("model, context", {}, False, ["M", "C"]),
        ("net, trial", {}, False, ["M", "C"]),
        ("model", {}, False, ["M"]),
        ("model, context=None", {}, False, ["M", "C"]),
        ("model=None, context=None", {}, False, ["M", "C"]),
        ("model, context, epochs=3", {"epochs": 5}, False, ["M", "C", "epochs=5"]),
        ("model, epochs=3", {"epochs": 5}, False, ["M", "epochs=5"]),
        ("model, context, *, rate", {"rate": 0.5}, False, ["M", "C", "rate=0.5"]),
        ("model, context, **options", {"a": 1}, False, ["M", "C", "a=1"]),
        ("", {}, True, []),
        ("epochs=3", {"epochs": 4}, True, ["epochs=4"]),
        ("*args", {}, True, []),
    ],
)
def test_signatures_choose_the_form(
    code: Code, signature: str, config: dict[str, Any], plain: bool, arguments: list[str]
) -> None:
    code("forms", f"def f({signature}):\n    return dict(locals())\n")
    found = UserEvaluator.find("forms:f", config)
    assert found.plain is plain
    given = found.call("M", "C")  # type: ignore[arg-type]
    flat: list[str] = []
    for key, value in given.items():
        for inner, item in value.items() if isinstance(value, dict) else [(key, value)]:
            if item not in (None, (), 3):
                flat.append(item if isinstance(item, str) else f"{inner}={item}")
    assert flat == arguments


@pytest.mark.parametrize(
    ("text", "config", "message"),
    [
        ("f = 3", {}, "is of type int; expected a function of"),
        ("class f: ...", {}, "is a class; expected a function of"),
        ("async def f(model, context): ...", {}, "is a coroutine"),
        ("def f(setting): ...", {}, "takes one argument, 'setting'"),
        ("def f(model, context, rate): ...", {}, "needs rate: give it in spec.evaluator.config"),
        ("def f(model, context, rate=1): ...", {"rte": 2}, "spec.evaluator.config.rte: .* it takes rate"),
    ],
)
def test_other_targets_are_refused_with_what_was_expected(
    code: Code, text: str, config: dict[str, Any], message: str
) -> None:
    code("refused", text + "\n")
    with pytest.raises(UserError, match=message):
        UserEvaluator.find("refused:f", config)


def test_a_chosen_value_given_to_a_module_of_torch_is_told_with_the_remedy(code: Code) -> None:
    code(
        "chosen",
        "from torch import nn\nfrom archsearch.nn import ValueChoice\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = nn.Linear(4, ValueChoice([2, 3], label='width'))\n",
    )
    with pytest.raises(UserError, match=r"ValueChoice.*module class of archsearch.nn \(archsearch.nn.Linear\)"):
        build_space(ModelSpace.model_validate({"python": {"class": "chosen:Net"}}))
