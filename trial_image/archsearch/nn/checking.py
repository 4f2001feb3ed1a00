"""Whether a network runs with each of its candidates: shapes only, on the meta device where the network allows it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn import mutables
from archsearch.nn.describe import collect
from archsearch.nn.fix import fix
from archsearch.nn.mutables import LayerChoice, StandaloneWarning
from archsearch.space import Architecture, Choice, SearchSpace, Subset

BATCH = 2
# A whole network is built and run for a candidate only where its shape differs, or for a chosen value.
MAX_RUNS = 128
SHOWN = 10  # faults in one error
_KINDS = (torch.float32, torch.int64)  # images and features, or indices of words


class CandidateError(UserError):
    """A network does not run with one of its candidates. The text names choice, candidate, place and shapes."""


def check(model: nn.Module, input_shape: Sequence[int], *, same_output: bool = True, max_runs: int = MAX_RUNS) -> None:
    """Try every candidate of every choice alone, all others at their first.

    A candidate that gives the shape that the first one gives is good. Others, and chosen values and depths, are tried
    in the whole network: what counts is that it runs, and that its output keeps its shape. Inputs are zeros, a batch of
    2, floating point or, where the network takes no such, integers. Weights are not touched, and no memory is needed
    where the network runs on the meta device.

    Args:
        input_shape: of one input, without the batch.
        same_output: the output keeps its shape whatever is chosen; False: it is enough that the network runs.
        max_runs: whole networks that are tried at most; further ones are left to their trials.

    Raises:
        CandidateError: the network does not run, or with some candidates does not.
        SpaceError: its choices contradict each other.
    """
    space, _ = collect(model)
    if not space.choices:
        return
    with _quiet():
        _Check(model, space, tuple(input_shape), max_runs, same_output).run()


@dataclass
class _Ran:
    """What one network gave: the shape of its output, or why it does not run."""

    output: Any = None
    error: Exception | None = None
    where: str = ""


@dataclass
class _Check:
    model: nn.Module
    space: SearchSpace
    input_shape: tuple[int, ...]
    runs_left: int
    same_output: bool
    device: str = "meta"
    kind: torch.dtype = torch.float32
    whole: nn.Module = field(default_factory=nn.Module)
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        default = self.space.default()
        expected = self._find_setting(default)
        tried = self._shapes()
        for choice in self.space:
            for option in () if isinstance(choice, Subset) else choice.options:
                shape = tried.get((choice.name, option))
                if (shape is None or shape.wrong) and (chosen := self._with(default, choice, option)) is not None:
                    self._try(choice, option, chosen, expected, shape)
        if self.faults:
            more = [f"and {len(self.faults) - SHOWN} more"] if len(self.faults) > SHOWN else []
            raise CandidateError("\n".join(self.faults[:SHOWN] + more))

    def _find_setting(self, default: Architecture) -> Any:
        """Find a device and a kind of input with which the network of first candidates runs; its output's shape."""
        first: _Ran | None = None
        for self.device in ("meta", "cpu"):
            self.whole = _on_meta(self.model) if self.device == "meta" else self.model
            for self.kind in _KINDS:
                ran = self._ran(default)
                if ran.error is None:
                    return ran.output
                first = ran if self.device == "cpu" and self.kind is _KINDS[0] else first
        assert first is not None  # noqa: S101 - every setting failed
        reason = _first_line(first.error) if first.error is not None else ""
        raise CandidateError(
            f"{type(self.model).__name__} does not run on inputs of shape {(BATCH, *self.input_shape)} with the first "
            f"candidate of each choice{first.where}: {reason}; {_remedy(reason)}"
        ) from first.error

    def _inputs(self) -> Tensor:
        return torch.zeros((BATCH, *self.input_shape), dtype=self.kind, device=self.device)

    def _ran(self, architecture: Architecture) -> _Ran:
        try:
            network = fix(self.whole, architecture).eval()
        except Exception as error:
            return _Ran(error=error)
        trail: list[str] = []
        handles = [
            module.register_forward_pre_hook(lambda _, __, name=name: trail.append(name))
            for name, module in network.named_modules()
        ]
        handles += [module.register_forward_hook(lambda *_: (trail.pop(), None)[1]) for module in network.modules()]
        try:
            with torch.no_grad(), torch.device(self.device):
                return _Ran(_shape(network(self._inputs())))
        except Exception as error:
            return _Ran(error=error, where=f", at {trail[-1]}" if trail and trail[-1] else "")
        finally:
            for handle in handles:
                handle.remove()

    def _with(self, default: Architecture, choice: Choice, option: Any) -> Architecture | None:
        """The first candidates, but `option` of one choice, and what it takes that this choice exists."""
        decisions: dict[str, Any] = {**default, choice.name: option}
        waiting = [choice]
        while waiting:
            when = waiting.pop().when
            for term in when[0] if when else ():
                held = decisions.get(term.choice)
                if held not in term.values:
                    decisions[term.choice] = term.values[0]
                waiting.append(self.space[term.choice])
        return self._completed(decisions)

    def _completed(self, decisions: Mapping[str, Any]) -> Architecture | None:
        taken: dict[str, Any] = {}
        for each in self.space:
            if each.active(taken):
                taken[each.name] = decisions.get(each.name, each.default())
        try:
            return self.space.validate(taken)
        except UserError:  # a constraint forbids it: it will never be tried
            return None

    def _try(self, choice: Choice, option: Any, chosen: Architecture, expected: Any, local: _Local | None) -> None:
        if choice.name not in chosen or chosen == self.space.default() or self.runs_left == 0:
            return
        self.runs_left -= 1
        ran = self._ran(chosen)
        if ran.error is not None and self.device == "meta":  # perhaps only the meta device cannot
            ran = replace(self, device="cpu", whole=self.model)._ran(chosen)
        if ran.error is None and (ran.output == expected or not self.same_output):
            return
        what = f"{choice.where}, {'candidate' if local is not None else 'value'} {option!r}: "
        if ran.error is None:
            what += f"the network gives {ran.output}, with the first candidates {expected}"
        else:
            what += f"the network does not run with it{ran.where}: {_first_line(ran.error)}"
        if local is not None and local.found is not None:
            what += f"; at {local.path} it gives {local.found}, where {local.first!r} gives {local.expected}"
        self.faults.append(f"{what}; let it give the same shape, or take it out")

    def _shapes(self) -> dict[tuple[str, Any], _Local]:
        """What each candidate gives where it stands, by choice and candidate; only those that were reached."""
        found: dict[tuple[str, Any], _Local] = {}
        _, fixing = collect(self.whole)
        given: dict[int, tuple[LayerChoice, tuple[Any, ...], dict[str, Any]]] = {}

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert isinstance(module, LayerChoice)  # noqa: S101 - registered on those alone
            given.setdefault(id(module), (module, args, kwargs))

        choices = [module for module in self.whole.modules() if isinstance(module, LayerChoice)]
        handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in choices]
        modes = {module: module.training for module in self.whole.modules()}
        self.whole.eval()
        try:
            with torch.no_grad(), torch.device(self.device):
                _attempt(lambda: self.whole(self._inputs()))
                done: set[int] = set()
                while waiting := [each for key, each in given.items() if key not in done]:
                    for module, args, kwargs in waiting:
                        done.add(id(module))
                        if id(module) in fixing.names:
                            name, path = fixing.names[id(module)], fixing.paths[id(module)]
                            for each, local in _candidates(module, path, args, kwargs).items():
                                if not ((name, each) in found and found[name, each].wrong):
                                    found[name, each] = local
        finally:
            for handle in handles:
                handle.remove()
            for member, training in modes.items():
                member.training = training
        return found


@dataclass(frozen=True)
class _Local:
    """What a candidate gives where it stands, and what the first one does; None: it does not run there."""

    path: str
    first: str
    expected: Any
    found: Any

    @property
    def wrong(self) -> bool:
        return self.found is None or self.found != self.expected


def _candidates(module: LayerChoice, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, _Local]:
    """What each candidate of one choice makes of the same inputs."""

    def shape(name: str) -> Any:
        return _attempt(lambda: _shape(module[name](*args, **kwargs)))

    first = module.names[0]
    expected = shape(first)
    return {name: _Local(path, first, expected, expected if name == first else shape(name)) for name in module.names}


def _attempt(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception:
        return None


def _shape(output: Any) -> Any:
    """The shapes of all tensors in an output."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, Mapping):
        return {key: _shape(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_shape(value) for value in output]
    return type(output).__name__


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _remedy(reason: str) -> str:
    if "ChosenValue" in reason or "ValueChoice" in reason:
        return "a chosen value is called where forward uses it, as in self.k() (docs/model-spaces.md)"
    return "correct the network or the input shape"


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the network without weights.

    Raises:
        CandidateError: a lazy module has no shape yet.
    """
    for path, module in model.named_modules():
        if any(isinstance(parameter, nn.UninitializedParameter) for parameter in module.parameters(recurse=False)):
            raise CandidateError(
                f"{type(model).__name__}.{path} ({type(module).__name__}) has no shape before its first batch: give "
                "sizes to a plain module, or send a batch through the network in its __init__"
            )
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning that first candidates are taken, and none used up."""
    warned = set(mutables._warned)
    state = torch.random.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StandaloneWarning)
            yield
    finally:
        torch.random.set_rng_state(state)
        mutables._warned.clear()
        mutables._warned.update(warned)
