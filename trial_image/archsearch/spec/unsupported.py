"""Fields of the manifest whose machinery is not there yet: refused with the reason, offline and by the API server.

The one table. A field leaves it when something acts on it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from archsearch.spec.problems import Problem

_ABSENT = object()


@dataclass(frozen=True)
class Unsupported:
    """One field below spec. `unused` is the value that asks for nothing; without one the field must be absent."""

    path: str
    reason: str
    unused: Any = _ABSENT

    @property
    def remedy(self) -> str:
        return "leave it out" if self.unused in (_ABSENT, "", []) else f"leave it out or at {json.dumps(self.unused)}"

    def problem(self, spec: dict[str, Any]) -> Problem | None:
        """The fault where a raw spec (the manifest's names) uses the field."""
        value: Any = spec
        for key in self.path.split("."):
            if not isinstance(value, dict) or value.get(key) is None:
                return None
            value = value[key]
        if value == self.unused:
            return None
        return Problem(f"spec.{self.path}", f"is not supported yet: {self.reason}", value, self.remedy)

    def cel(self) -> dict[str, str]:
        """The same as a rule of the CRD at spec."""
        keys = self.path.split(".")
        at = ["self." + ".".join(keys[: depth + 1]) for depth in range(len(keys))]
        guards = [f"!has({each})" for each in at]
        if isinstance(self.unused, list):
            guards.append(f"size({at[-1]}) == 0")
        elif self.unused is not _ABSENT:
            guards.append(f"{at[-1]} == {json.dumps(self.unused)}")
        return {
            "rule": " || ".join(guards),
            "message": f"spec.{self.path} is not supported yet: {self.reason}; {self.remedy}",
            "fieldPath": f".{self.path}",
        }


UNSUPPORTED = (
    Unsupported("resumeFrom", "a run continues only in its own folder", ""),
    Unsupported("modelSpace.python.source.uri", "code comes from a ConfigMap or the trial image"),
    Unsupported("trials.queueName", "trial Jobs are not handed to Kueue", ""),
)


def unsupported_problems(spec: dict[str, Any]) -> list[Problem]:
    """Every use of a field of the table in a raw spec."""
    return [problem for field in UNSUPPORTED if (problem := field.problem(spec)) is not None]
