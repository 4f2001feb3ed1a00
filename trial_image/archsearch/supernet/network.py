"""Any model with choices as a supernet: who decides, in each forward pass, what every choice does. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from archsearch.errors import UserError
from archsearch.nn.describe import collect
from archsearch.nn.mutables import InputChoice, LayerChoice, Mutable
from archsearch.nn.values import Value, ValueModule
from archsearch.space import Architecture, Choice, Decision, Subset
from archsearch.supernet.elastic import Elastic, widen
from archsearch.supernet.mixing import Activations, Normalised, mix

if TYPE_CHECKING:
    from archsearch.nn.cell import Cell

Mixer = Callable[[Sequence[nn.Module], tuple[Any, ...], dict[str, Any], "Mixture"], Any]


@dataclass(frozen=True)
class Mixture:
    """What of one choice takes part in a forward pass.

    Attributes:
        chosen: positions among the choice's options (candidates of a layer choice, inputs of an input choice).
        weights: (len(chosen),), what each one's output is multiplied with; None: they are taken as they are.
    """

    chosen: tuple[int, ...]
    weights: Tensor | None = None


class Supernet:
    """A model whose choices follow mixtures, one a choice.

    The model's own modules and parameter names stay as they are, so that `model.state_dict()` fits the model as its
    author builds it, and `fix(model, architecture)` gives the plain network with the shared weights. Choices with one
    label follow one mixture. Only the candidates of a mixture are computed.

    Args:
        model: is made the supernet, in place.
        normalise_pools: normalise the outputs of candidates named ..._pool_... by their batch's statistics (Liu 2019,
            section 3): in a mixture they would otherwise outweigh the others.
        mixers: what computes a mixture of several weighted candidates of a layer choice, by the choice's name, in place
            of their plain weighted sum (partial channels, say).

    Raises:
        UserError: the model has no choices, or one whose parameters architectures cannot share.
    """

    def __init__(
        self, model: nn.Module, *, normalise_pools: bool = False, mixers: Mapping[str, Mixer] | None = None
    ) -> None:
        widen(model)
        self.model = model
        self.normalise_pools = normalise_pools
        self.space, self._fixing = collect(model)
        if not self.space.choices:
            raise UserError(f"{type(model).__name__} has no choices: there is no supernet of it")
        self.choices: dict[str, Choice] = {choice.name: choice for choice in self.space.choices}
        self.mixers = dict(mixers or {})
        self.observe: Callable[[LayerChoice, tuple[Any, ...], dict[str, Any]], object] | None = None  # sees each call
        self.architecture: Architecture | None = None  # the sampled one; None while choices are mixed
        self.layers: dict[str, list[LayerChoice]] = {}  # by the choice's name: the places that it decides
        self._mixtures: dict[str, Mixture] = {}
        self._pinned: dict[str, Mixture] = {}
        self._normalised: dict[int, Normalised] = {}
        self.activations = Activations()
        self._elastic = Elastic()
        for path, module in model.named_modules():
            if isinstance(module, Mutable):
                self._take_over(module, path)
            for value in vars(module).values():
                if isinstance(value, Value):
                    self._lead(value)

    def _take_over(self, module: Mutable, path: str) -> None:
        if not module.conductible:
            raise UserError(
                f"{path or 'the model'} ({type(module).__name__}) cannot be part of a supernet: the shapes of its "
                "parameters depend on the whole architecture, so that architectures share none; use a strategy that "
                "trains each architecture (regularized-evolution, predictor, …)"
            )
        module.conductor = self
        if isinstance(module, LayerChoice):
            self.layers.setdefault(self.name(module), []).append(module)
            for name in module.names:
                if self.normalise_pools and "pool" in name:
                    self._normalised[id(module[name])] = Normalised(module[name])
        for _, value in module.values():
            self._lead(value)

    def _lead(self, value: Any) -> None:
        for leaf in value.leaves() if isinstance(value, Value) else ():
            leaf.conductor = self

    def name(self, module: nn.Module) -> str:
        """The name of the choice that a module of the model stands for."""
        return self._fixing.name(module)

    def train(self) -> None:
        """Put the model into training mode, unless it is: walking through all candidates at every step costs time."""
        if not self.model.training:
            self.model.train()

    # --- what the next forward passes do

    def take(self, architecture: Mapping[str, Any]) -> Architecture:
        """Follow one architecture: a single path.

        Raises:
            ArchitectureError: it is none of the space.
        """
        checked = self.space.validate(architecture)
        self.activations.clear()
        self.architecture = checked
        self._mixtures = {name: Mixture(positions(self.choices[name], checked[name])) for name in checked}
        return checked

    def mix(self, mixtures: Mapping[str, Mixture]) -> None:
        """Follow one mixture a choice. An input choice without one has all its inputs taken as they are.

        That is what a node of a DARTS cell does in search: its inputs are chosen only when the search is over.
        """
        self.activations.clear()
        self.architecture = None
        self._mixtures = dict(mixtures)

    def pin(self, name: str, mixture: Mixture) -> None:
        """Have one choice follow this mixture whatever `mix` says of it. An architecture that is taken goes before."""
        self._pinned[name] = mixture

    @contextmanager
    def following(self, architecture: Mapping[str, Any]) -> Iterator[None]:
        """`take` an architecture, and afterwards follow again what was followed before."""
        before = (self.architecture, self._mixtures)
        self.take(architecture)
        try:
            yield
        finally:
            self.architecture, self._mixtures = before

    @contextmanager
    def mixing(self, mixtures: Mapping[str, Mixture]) -> Iterator[None]:
        """`mix`, and afterwards follow again what was followed before."""
        before = (self.architecture, self._mixtures)
        self.mix(mixtures)
        try:
            yield
        finally:
            self.architecture, self._mixtures = before

    def mixture(self, name: str) -> Mixture:
        """What a choice follows now.

        Raises:
            UserError: nothing was said of it.
        """
        found = self._mixtures.get(name)
        if self.architecture is None:
            found = self._pinned.get(name, found)
        if found is None:
            choice = self.choices[name]
            if isinstance(choice, Subset) and self.architecture is None:
                return Mixture(tuple(range(len(choice.options))))
            raise UserError(f"nothing says what choice {name!r} does: take an architecture, or give it a mixture")
        return found

    def followed(self) -> dict[str, Mixture]:
        """What the choices follow now, those apart of which nothing was said."""
        return {**self._mixtures, **(self._pinned if self.architecture is None else {})}

    # --- asked by the model's choices

    def layer(self, choice: LayerChoice, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self.name(choice)
        mixture = self.mixture(name)
        if self.observe is not None:
            self.observe(choice, args, kwargs)
        modules = [self._candidate(choice, i) for i in mixture.chosen]
        if mixture.weights is None and len(modules) == 1:
            return modules[0](*args, **kwargs)
        mixer = self.mixers.get(name)
        if mixer is not None:
            return mixer(modules, args, kwargs, mixture)
        return mix(modules, args, kwargs, mixture.weights, self.activations)

    def _candidate(self, choice: LayerChoice, i: int) -> nn.Module:
        module = choice[i]
        return self._normalised.get(id(module), module)

    def inputs(self, choice: InputChoice, makers: Sequence[Callable[[], Any]]) -> Any:
        mixture = self.mixture(self.name(choice))
        picked = [makers[i]() for i in mixture.chosen]
        if mixture.weights is not None:
            weights = mixture.weights
            if choice.reduction == "mean":  # of as many inputs as the weights add up to, a constant where that is given
                total = weights.sum() if choice.n_chosen is None else weights.sum().detach()
                weights = weights * (len(picked) / total)
            picked = [weight * value for weight, value in zip(weights, picked, strict=True)]
        return choice.reduce(picked, makers)

    def value(self, value: Any) -> Any:
        return value.evaluate(self._decided) if isinstance(value, Value) else value

    def module(self, module: ValueModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._elastic.call(module, self.value, args, kwargs)

    def merged(self, cell: Cell) -> tuple[int, ...]:
        if self.architecture is None:
            return tuple(cell.numbers)
        return cell.merged(replace(self._fixing, decisions=self.architecture))

    def _decided(self, leaf: nn.Module) -> Decision:
        name = self.name(leaf)
        if self.architecture is None:
            raise UserError(
                f"the value of choice {name!r} cannot be mixed, it must be decided: this algorithm takes layer and "
                "input choices only"
            )
        return self.architecture[name]


def positions(choice: Choice, decision: Decision) -> tuple[int, ...]:
    """Where a decision stands among its choice's options; several for a subset."""
    if isinstance(decision, tuple):
        return tuple(choice.options.index(each) for each in decision)
    return (choice.options.index(decision),)
