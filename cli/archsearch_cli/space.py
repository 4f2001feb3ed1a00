"""`archsearch space`: the search space of a manifest, a zoo name or a class."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from archsearch import registry
from archsearch.errors import UserError
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import EvaluatorSpec, ModelSpace
from archsearch.spec.explain import problems_of, suggest
from archsearch.spec.load import load_experiment
from archsearch.spec.manifest import parse_yaml
from archsearch.spec.problems import SpecError
from archsearch_cli.output import Format, emit

if TYPE_CHECKING:
    from archsearch.space import SearchSpace


def show_space(target: str | None, args: Sequence[str], *, nni: bool, size: bool, output: Format) -> int:
    """Write a space as a tree of its choices, as JSON, YAML or CSV, as NNI's JSON, or its size only.

    Args:
        args: arguments of the space, each NAME=VALUE, the value YAML.
    """
    if target is None:
        emit([{"space": name} for name in registry.registered("archsearch.spaces")], output)
        return 0
    space = find_space(target, _arguments(args))
    if size:
        emit([{"size": space.size()}], output)
    elif nni:
        from archsearch.space import space_to_nni

        emit(space_to_nni(space), Format.YAML if output is Format.YAML else Format.JSON)
    elif output in (Format.JSON, Format.YAML):
        emit(space.to_json(), output)
    elif output is Format.CSV:
        emit(_rows(space), output)
    else:
        from archsearch_cli.space_tree import tree_lines

        sys.stdout.writelines(f"{line}\n" for line in tree_lines(space))
    return 0


def find_space(target: str, args: JsonObject) -> SearchSpace:
    """Build the network that `target` names, and describe it. Runs the model's own code; needs torch.

    Raises:
        UserError: no such space, or code that does not run.
    """
    path = Path(target)
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        spec = load_experiment(path).spec
        if spec.model_space.python is not None:
            _import_from(path.absolute().parent)
        return _build(_with_args(spec.model_space, args), spec.evaluator)
    if ":" in target:
        _import_from(Path.cwd())
        return _build(_model_space({"python": {"class": target, "args": args}}), None)
    known = registry.registered("archsearch.spaces")
    if target not in known:
        raise UserError(
            f"no search space is named {target!r}, and no such manifest is there; {suggest(target, known)}"
            " (or give module:Class)"
        )
    return _build(_model_space({"zoo": {"name": target, "args": args}}), None)


def _build(model_space: ModelSpace, evaluator: EvaluatorSpec | None) -> SearchSpace:
    try:
        import torch
    except ImportError:
        raise UserError("the network of a space needs torch: pip install 'archsearch[trial]'") from None
    from archsearch.evaluate.kinds import set_up
    from archsearch.evaluate.models import build_space, describe_space

    shape, classes = None, None
    if evaluator is not None:
        setup = set_up(evaluator, model_space)
        shape, classes = setup.input_shape, setup.classes
    torch.manual_seed(0)
    return describe_space(build_space(model_space, input_shape=shape, classes=classes)[0])


def _arguments(pairs: Sequence[str]) -> JsonObject:
    found: JsonObject = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UserError(f"--arg {pair!r} is no NAME=VALUE; write for example --arg channels=8")
        found[name] = parse_yaml(value, f"--arg {name}") if value else ""
    return found


def _model_space(raw: JsonObject) -> ModelSpace:
    try:
        return ModelSpace.model_validate(raw)
    except ValidationError as error:
        raise SpecError(problems_of(error, ModelSpace, raw)) from None


def _with_args(model_space: ModelSpace, args: JsonObject) -> ModelSpace:
    raw: dict[str, Any] = model_space.to_json()
    for part in (raw[key] for key in ("zoo", "python") if key in raw):
        part["args"] = {**part.get("args", {}), **args}
    return _model_space(raw)


def _import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _rows(space: SearchSpace) -> list[JsonObject]:
    choices = space.to_json()["choices"]
    named = choices.items() if isinstance(choices, dict) else ((each["name"], each) for each in choices)
    return [
        {"choice": name, **{key: value for key, value in choice.items() if key != "name"}} for name, choice in named
    ]
