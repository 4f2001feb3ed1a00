"""modelSpace.mutate: what is replaced, inserted, removed or repeated in a network that has no choices. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from archsearch.spec.base import FreeForm, Model, Text, rule

KEEP = "keep"
IDENTITY = ("identity", "remove")  # both words: the input is passed on
REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)")

_DOTTED = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
_CLASS = re.compile(rf"^{_DOTTED}(:{_DOTTED})?$")
_FORMS = (
    "keep, identity, a module class such as torch.nn.ReLU, {type: torch.nn.Conv2d, args: {…}}, {change: {…}}, "
    "or a list of these, one after the other"
)
ModuleClass = Annotated[str, StringConstraints(pattern=rf"^({_DOTTED}(:{_DOTTED})?)?$", max_length=256)]


class ReplaceModules(Model):
    """What stands in the place: one of several candidates, or always the same."""

    model_config = rule(("has(self.candidates) != has(self.with)", "give exactly one of candidates and with"))

    candidates: FreeForm | None = Field(
        default=None,
        description="Candidates by name: keep, identity, a module class, {type, args}, {change: {…}} (the class of the"
        " replaced module with other arguments), or a list of these.",
    )
    with_: FreeForm | None = Field(
        default=None,
        alias="with",
        description="{type, args} or {change: {…}} without a choice, for values in its args.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.candidates is None) == (self.with_ is None):
            raise ValueError("give exactly one of candidates and with")
        if self.with_ is not None:
            check_candidate("with", self.with_)
        else:
            check_candidates(self.candidates or {})
        return self


class InsertModules(Model):
    """What is put before or after the place."""

    candidates: FreeForm = Field(description="Candidates by name, as for replace; identity: nothing.")
    before: bool = Field(default=False, description="True: before the module or call, not after it.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_candidates(self.candidates)
        for name, candidate in self.candidates.items():
            if candidate == KEEP:
                raise ValueError(
                    f"candidates.{name}: there is nothing to keep where a module is inserted; use identity"
                )
        return self


class RemoveModules(Model):
    """The place may be skipped: its input is passed on."""

    always: bool = Field(default=False, description="True: removed without a choice.")


class RepeatModules(Model):
    """How often the place stands there."""

    depth: Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=2, max_length=2)] = Field(
        description="Least and greatest: of a torch.nn.Sequential how many of its modules are used, of any other module"
        " how many copies stand in a row."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.depth[0] > self.depth[1]:
            raise ValueError(f"depth {self.depth} is [least, greatest]; the first must not be more than the second")
        return self


class Mutation(Model):
    """One change of a plain network. Places are chosen by match, type and call; what is not given fits all."""

    model_config = rule(
        (
            "[has(self.replace), has(self.insert), has(self.remove), has(self.repeat)].filter(x, x).size() == 1",
            "give exactly one of replace, insert, remove and repeat",
        ),
        ("has(self.match) || has(self.type) || has(self.call)", "give match, type or call"),
        ("!has(self.repeat) || !has(self.call)", "repeat is for modules: leave call out"),
    )

    match: Text | None = Field(
        default=None,
        description="Module paths, * for any text, for example layer*.conv2; of modules inside each other the"
        ' outermost; "" is the network itself. With call: the modules whose forward is rewritten.',
    )
    type: ModuleClass | None = Field(
        default=None, description="Class of the modules, for example torch.nn.ReLU or my_model:Block."
    )
    call: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="Calls in a forward, for example relu, add or torch.nn.functional.relu; torch.fx must trace it.",
    )
    values: FreeForm = Field(
        default_factory=dict,
        description="Chosen values for arguments, by name: {k: [3, 5]} or {k: {choice: [3, 5], label: kernel}}; $k is"
        " one in args.",
    )
    label: Text = Field(
        default="",
        description="Name of the choice, one decision for all places; {path} and {parent} stand for the place's own.",
    )
    replace: ReplaceModules | None = Field(default=None, description="Put other modules in the place.")
    insert: InsertModules | None = Field(default=None, description="Put modules before or after the place.")
    remove: RemoveModules | None = Field(default=None, description="Let the place be skipped.")
    repeat: RepeatModules | None = Field(default=None, description="Let the place be repeated.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if sum(part is not None for part in (self.replace, self.insert, self.remove, self.repeat)) != 1:
            raise ValueError("give exactly one of replace, insert, remove and repeat")
        if self.match is None and self.type is None and self.call is None:
            raise ValueError("give match, type or call")
        if self.repeat is not None and self.call is not None:
            raise ValueError("repeat is for modules: leave call out")
        for name, value in self.values.items():
            _check_value(name, value)
        return self


def check_candidates(candidates: dict[str, Any]) -> None:
    """Raises ValueError where candidates of a manifest are none."""
    if not candidates:
        raise ValueError("candidates: give at least one")
    for name, candidate in candidates.items():
        if not name or "." in name:
            raise ValueError(f"candidates: the name {name!r} is empty or has a dot; rename it")
        check_candidate(f"candidates.{name}", candidate)


def check_candidate(where: str, candidate: Any) -> None:
    """Raises ValueError where one candidate of a manifest has no form that is known."""
    if isinstance(candidate, list) and candidate:
        for index, each in enumerate(candidate):
            check_candidate(f"{where}[{index}]", each)
        return
    if isinstance(candidate, str) and (candidate == KEEP or candidate in IDENTITY or _CLASS.match(candidate)):
        return
    if not isinstance(candidate, dict) or not candidate:
        raise ValueError(f"{where}: {candidate!r} is no candidate; expected {_FORMS}")
    known = {"type", "args"} if "type" in candidate else {"change"}
    unknown = sorted(candidate.keys() - known)
    if unknown:
        raise ValueError(f"{where}: no such field {unknown[0]!r}; expected {_FORMS}")
    if "type" in candidate and not (isinstance(candidate["type"], str) and _CLASS.match(candidate["type"])):
        raise ValueError(f"{where}.type: {candidate['type']!r} is no class; write torch.nn.Conv2d or module:Class")
    for key in ("args", "change"):
        if not isinstance(candidate.get(key, {}), dict):
            raise ValueError(f"{where}.{key}: {candidate[key]!r} is no mapping of argument names to values")


def _check_value(name: str, value: Any) -> None:
    options = value.get("choice") if isinstance(value, dict) else value
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"values: the name {name!r} is not of letters, digits and _")
    if not isinstance(options, list) or not options:
        raise ValueError(f"values.{name}: {value!r} is no list of values; write [3, 5] or {{choice: [3, 5], label: k}}")
    if isinstance(value, dict) and (value.keys() - {"choice", "label"} or not isinstance(value.get("label", ""), str)):
        raise ValueError(f"values.{name}: {value!r} has other fields than choice and label (text)")
    if not all(isinstance(option, str | int | float) for option in options):
        raise ValueError(f"values.{name}: {options!r} holds something that is no number, text or boolean")
