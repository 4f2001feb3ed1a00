"""What is wrong with a manifest: field, value, what was expected, what to do. One text for the CLI and status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from archsearch.errors import UserError

MISSING = object()


@dataclass(frozen=True)
class Problem:
    """One fault. `path` is the manifest's own, for example spec.strategy.config.sample."""

    path: str
    message: str
    value: Any = MISSING
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}"
        if self.value is not MISSING:
            text += f" (it is {_show(self.value)})"
        return f"{text}; {self.remedy}" if self.remedy else text


def _show(value: Any, limit: int = 120) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class SpecError(UserError):
    """A manifest that cannot run."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
