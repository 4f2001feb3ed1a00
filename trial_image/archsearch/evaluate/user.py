"""The user's own code: found by module:attribute, called by its signature, mistakes told in words. Imports no torch."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archsearch.errors import ArchsearchError, UserError
from archsearch.spec import names
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from torch import nn

    from archsearch.trial.context import TrialContext

Parameter = inspect.Parameter
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_FORMS = "expected a function of (model, context), or plain trial code that needs no argument"


def import_target(target: str) -> Any:
    """The object that `target` (module:attribute) names.

    Raises:
        UserError: the module is not there, does not import, or lacks the attribute; tells what was sought and where.
    """
    module_name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        parents = {module_name[:end] for end in _ends(module_name)}
        if error.name in parents:
            raise UserError(
                f"{target}: there is no module {error.name!r} in {_places()}; put "
                f"{error.name.replace('.', '/')}.py there, or correct the name"
            ) from error
        raise UserError(
            f"{target}: module {module_name!r} imports {error.name!r}, which is not installed here{_at(error)}; "
            "add it to the image (on a laptop: to this environment)"
        ) from error
    except Exception as error:
        raise fault(error, f"{target}: module {module_name!r} does not import") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = (
                sorted(name for name in vars(found) if not name.startswith("_")) if hasattr(found, "__dict__") else []
            )
            place = getattr(sys.modules[module_name], "__file__", None) or module_name
            raise UserError(
                f"{target}: {module_name!r} ({place}) has no {attribute!r}; it has "
                f"{', '.join(public[:20]) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


def fault(error: BaseException, what: str) -> UserError:
    """An exception of user code as one that names file, line and text; archsearch's own errors keep their text."""
    if isinstance(error, ArchsearchError):
        return UserError(f"{what}: {error}{_at(error, theirs_only=True)}")
    if isinstance(error, SyntaxError):
        return UserError(f"{what}: {error.msg} ({error.filename}, line {error.lineno})")
    text = str(error)
    hint = ""
    if isinstance(error, TypeError) and ("ValueChoice" in text or "Expression" in text):
        hint = "; pass a chosen value to a module class of archsearch.nn (archsearch.nn.Linear), or call it in forward"
    return UserError(f"{what}: {type(error).__name__}{': ' + text if text else ''}{_at(error)}{hint}")


def _at(error: BaseException, *, theirs_only: bool = False) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and Path(frame.filename).parts[-2:-1] != ("importlib",)
    ]
    theirs = [
        frame
        for frame in frames
        if "archsearch" not in Path(frame.filename).parts and "torch" not in Path(frame.filename).parts
    ]
    last = (theirs or ([] if theirs_only else frames) or [None])[-1]  # type: ignore[list-item]
    return f" ({last.filename}, line {last.lineno})" if last is not None else ""


def _ends(module_name: str) -> list[int]:
    return [index for index, letter in enumerate(module_name) if letter == "."] + [len(module_name)]


def _places() -> str:
    code = os.environ.get(names.ENV_CODE_DIR)
    first = code or next((entry for entry in sys.path if entry), "") or os.getcwd()
    return f"{first} or among the installed packages"


@dataclass(frozen=True)
class UserEvaluator:
    """A user's function with what its signature says. `plain`: it takes no model and reports its result itself."""

    target: str
    function: Callable[..., Any]
    plain: bool
    takes_context: bool
    options: JsonObject

    @classmethod
    def find(cls, target: str, config: Mapping[str, Any]) -> UserEvaluator:
        """Import the function and fit `config` to its keyword parameters.

        Raises:
            UserError: no such function, a signature that is neither form, or an option that it does not take.
        """
        function = import_target(target)
        if inspect.isclass(function) or not callable(function):
            kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
            raise UserError(f"evaluator.python {target} is {kind}; {_FORMS}")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise UserError(f"evaluator.python {target} is a coroutine or generator function; {_FORMS}")
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError as error:
            raise UserError(f"evaluator.python {target} has no signature that Python can tell; {_FORMS}") from error
        leading, rest = _leading(target, parameters)
        _check_options(target, rest, config)
        return cls(target, function, plain=not leading, takes_context=len(leading) == 2, options=dict(config))

    def call(self, model: nn.Module | None, context: TrialContext) -> Any:
        """Call the function; what it raises goes through, so that the trial's failure shows its own traceback."""
        if self.plain:
            return self.function(**self.options)
        if self.takes_context:
            return self.function(model, context, **self.options)
        return self.function(model, **self.options)


def _leading(target: str, parameters: list[Parameter]) -> tuple[list[Parameter], list[Parameter]]:
    """Split a signature into the model (and context) that it takes first, and the parameters that options may fill."""
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    required = [parameter for parameter in positional if parameter.default is Parameter.empty]
    takes_model = bool(required) or (bool(positional) and positional[0].name == "model")
    if not takes_model:
        return [], parameters
    if len(positional) == 1 and positional[0].name != "model":
        raise UserError(
            f"evaluator.python {target} takes one argument, {positional[0].name!r}; {_FORMS}; "
            "call it model if it is the network"
        )
    takes_context = len(positional) >= 2 and (positional[1] in required or positional[1].name == "context")
    leading = positional[: 2 if takes_context else 1]
    return leading, [parameter for parameter in parameters if parameter not in leading]


def _check_options(target: str, parameters: list[Parameter], config: Mapping[str, Any]) -> None:
    named = {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    open_ended = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if open_ended else sorted(set(config) - set(named))
    if unknown:
        raise UserError(
            f"spec.evaluator.config.{unknown[0]}: {target} takes no such keyword; it takes "
            f"{', '.join(sorted(named)) or 'none'}"
        )
    lacking = sorted(
        name for name, parameter in named.items() if parameter.default is Parameter.empty and name not in config
    )
    if lacking:
        raise UserError(
            f"evaluator.python {target} needs {', '.join(lacking)}: give it in spec.evaluator.config, "
            "or a default in the code"
        )
