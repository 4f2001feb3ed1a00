"""`archsearch validate`: offline what the file tells, with --live what bucket, keys and cluster say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.load import override
from archsearch.spec.manifest import read_manifest
from archsearch.spec.problems import MISSING, Problem, SpecError
from archsearch_cli.output import Format, emit, note
from archsearch_strategies.checks import check_document, missing_runs


def validate_file(file: Path, overrides: Sequence[str], *, live: bool, output: Format) -> int:
    """Exit code 0 where nothing is wrong, 2 with every problem otherwise."""
    try:
        document = override(read_manifest(file), overrides)
    except SpecError as error:
        return _report(file, list(error.problems), output)
    experiment, problems = check_document(document)
    if experiment is not None and not problems:
        problems = missing_runs(experiment)
    if live and experiment is not None and not problems:
        from archsearch_cli.live import live_problems

        problems = live_problems(experiment, document)
    return _report(file, problems, output)


def _report(file: Path, problems: list[Problem], output: Format) -> int:
    if output is not Format.TABLE:
        emit([problem_row(problem) for problem in problems], output)
    elif not problems:
        emit([{"file": str(file), "valid": "yes"}], output)
    for problem in problems if output is Format.TABLE else ():
        note(f"error: {problem}")
    if problems:
        note(f"{file}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")
    return 2 if problems else 0


def problem_row(problem: Problem) -> JsonObject:
    """One problem as `validate -o json` shows it."""
    value = None if problem.value is MISSING else problem.value
    return {"path": problem.path, "message": problem.message, "value": value, "remedy": problem.remedy}


def require_valid(file: Path, overrides: Sequence[str]) -> NASExperiment:
    """The experiment of a file.

    Raises:
        SpecError: with every problem.
    """
    experiment, problems = check_document(override(read_manifest(file), overrides))
    if experiment is None or problems:
        raise SpecError(problems)
    return experiment
