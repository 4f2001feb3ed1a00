"""A manifest from a file, with overrides of the command line, as a checked NASExperiment."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.explain import accepts_only_text, field_model, problems_of
from archsearch.spec.manifest import parse_yaml, read_manifest
from archsearch.spec.problems import Problem, SpecError

_STEP = re.compile(r'\.?([A-Za-z_][A-Za-z0-9_-]*)|\.?\[(\d{1,6})\]|\.(\d{1,6})(?=[.\[]|$)|\["([^"]+)"\]')


def load_experiment(source: Path | str, overrides: Sequence[str] = ()) -> NASExperiment:
    """The experiment of a manifest.

    Args:
        source: a path, or the manifest's text (a string that holds a line break).
        overrides: as `--set` takes them: "spec.seed=3", "spec.objectives[0].target=0.99", values in YAML.

    Raises:
        SpecError: with every problem that the models find, each with its path, value and remedy.
    """
    if isinstance(source, str) and "\n" not in source:
        source = Path(source)
    return parse_experiment(override(read_manifest(source), overrides))


def parse_experiment(document: JsonObject) -> NASExperiment:
    """The experiment of a parsed manifest, checked as strictly as the API server does: no text for numbers.

    Raises:
        SpecError: see `load_experiment`.
    """
    missing = [
        Problem(key, "is required and missing", remedy=f"write {key}: {expected}")
        for key, expected in (("apiVersion", "archsearch.dev/v1alpha1"), ("kind", "NASExperiment"))
        if key not in document
    ]
    try:
        experiment = NASExperiment.model_validate_json(json.dumps(document), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise SpecError([*missing, *problems_of(error, NASExperiment, document)]) from None
    if missing:
        raise SpecError(missing)
    return experiment


def override(document: JsonObject, overrides: Sequence[str]) -> JsonObject:
    """The document with each "path=value" laid over it; the document given is not changed.

    Raises:
        SpecError: one that cannot be read, or whose path leads through something else than mappings and lists.
    """
    document = copy.deepcopy(document)
    for text in overrides:
        path, separator, value = text.partition("=")
        steps = _steps(path.strip(), text)
        if not separator:
            raise _refused(text, "has no value", "write it as spec.path=value")
        _put(document, steps, _value(steps, value, text), text)
    return document


def _steps(path: str, text: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or match.end() == position:
            raise _refused(
                text, f"has a path that cannot be read at {path[position:]!r}", "write it as spec.objectives[0].target"
            )
        name, index, number, quoted = match.groups()
        steps.append(name or quoted if index is None and number is None else int(index or number))
        position = match.end()
    if not steps or steps[0] not in ("spec", "metadata") or len(steps) < 2:
        raise _refused(text, "does not name a field below spec or metadata", "write it as spec.path=value")
    return steps


def _value(steps: list[str | int], value: str, text: str) -> Any:
    """YAML, except where the models want text: there 0.99 stays "0.99"."""
    text_wanted = accepts_only_text(field_model(NASExperiment, steps))
    parsed = parse_yaml(value, f"--set {text}")
    if text_wanted and (parsed is None or isinstance(parsed, (int, float))) and value.strip() not in ("null", "~"):
        return value.strip()
    return parsed


def _put(document: JsonObject, steps: list[str | int], value: Any, text: str) -> None:
    here: Any = document
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(step, int):
            if not isinstance(here, list):
                raise _refused(text, f"has the index {step} where the manifest has no list", "give a name there")
            if step > len(here) or (step == len(here) and not last):
                raise _refused(text, f"has the index {step}, but the list has {len(here)} entries", "start at 0")
            if step == len(here):
                here.append(value)
            elif last:
                here[step] = value
        elif not isinstance(here, dict):
            raise _refused(text, f"has {step!r} below a value that is no mapping", "shorten the path")
        elif last:
            here[step] = value
        elif here.get(step) is None:
            here[step] = {}
        if not last:
            here = here[step]


def _refused(text: str, message: str, remedy: str) -> SpecError:
    return SpecError([Problem(f"--set {text}", message, remedy=remedy)])
