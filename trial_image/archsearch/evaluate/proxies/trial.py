"""Trials of the kind proxy: scores of a list of architectures. Imports torch where networks are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from archsearch.errors import ArchsearchError, UserError
from archsearch.evaluate.proxies.params import ProxyParams
from archsearch.evaluate.tabular import Tabular
from archsearch.spec.base import JsonObject

if TYPE_CHECKING:
    from archsearch.evaluate.kinds import Setup
    from archsearch.evaluate.proxies import Proxy
    from archsearch.evaluate.proxies.probe import Sample
    from archsearch.evaluate.proxies.scoring import Scores
    from archsearch.trial.context import TrialContext

MOST_WORDS = 500  # characters of a reason


def score_all(context: TrialContext, setup: Setup) -> JsonObject:
    """Scores of ``params.architectures``, in their order; a checkpoint may be taken after each.

    All networks are drawn from the trial's seed and shown the same data, so the scores of an architecture depend
    neither on its place in the list nor on what else is in it.

    Returns:
        ``scores`` (of each architecture ``{name: value}``, a value None where the proxy has none for it; None where the
        architecture cannot be built), ``reasons`` (of those, by their place as text) and ``leftOut`` (by proxy, why it
        has no value somewhere).

    Raises:
        UserError: params that make no sense, or nothing is known of the network's inputs.
        TrialStopped, TrialReleased: the trial was told to end.
    """
    if isinstance(setup.evaluator, Tabular):
        return setup.evaluator.proxy_scores(context.assignment.params)
    params = ProxyParams.read(context.assignment.params)
    found = _Collected.of(context)
    sample = _sample(context, setup, params)
    builder = _Builder(context, setup)
    for architecture in params.architectures[len(found.scores) :]:
        found.take(partial(builder.scores, architecture, sample, params.names))
        context.checkpoint_point(lambda: ({}, found.to_json()))
    return found.to_json()


class _Collected:
    """What is known so far."""

    def __init__(self) -> None:
        self.scores: list[dict[str, float | None] | None] = []
        self.reasons: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    @classmethod
    def of(cls, context: TrialContext) -> _Collected:
        """Where an earlier attempt stood."""
        found, earlier = cls(), context.load_checkpoint()
        if earlier is not None:
            _, state = earlier
            found.scores, found.reasons, found.left_out = state["scores"], state["reasons"], state["leftOut"]
        return found

    def take(self, compute: Callable[[], Scores]) -> None:
        """The scores of the next architecture, or why it has none."""
        import torch

        try:
            scores = compute()
        except (ArchsearchError, torch.OutOfMemoryError) as error:
            self.reasons[str(len(self.scores))] = str(error)[:MOST_WORDS]
            self.scores.append(None)
            return
        self.scores.append(dict(scores.values))
        self.left_out = {**scores.left_out, **self.left_out}

    def to_json(self) -> JsonObject:
        return {"scores": list(self.scores), "reasons": dict(self.reasons), "leftOut": dict(self.left_out)}


class _Builder:
    """Builds one network after the other, each for its architecture alone where the space allows."""

    def __init__(self, context: TrialContext, setup: Setup) -> None:
        from archsearch.evaluate.determinism import seed_everything
        from archsearch.evaluate.models import describe_space, fixed

        self.context, self.setup = context, setup
        seed_everything(context.seed, context.device)
        whole, _ = setup.build(context.assignment.model_space)
        self.space = describe_space(whole)
        # Another space than the search's is no fault of one architecture.
        fixed(whole, self.space, self.space.default().to_json(), context.assignment.space_digest)

    def scores(self, architecture: JsonObject, sample: Sample, names: Sequence[Proxy]) -> Scores:
        from archsearch.evaluate.determinism import seed_everything
        from archsearch.evaluate.models import fixed
        from archsearch.evaluate.options import TrainingEvaluator
        from archsearch.evaluate.proxies.scoring import score
        from archsearch.nn.sparing import sparing

        assignment, chosen = self.context.assignment, self.space.validate(architecture)
        seed_everything(self.context.seed, self.context.device)
        with sparing(chosen):
            whole, _ = self.setup.build(assignment.model_space)
            network, _ = fixed(whole, self.space, chosen.to_json(), assignment.space_digest)
        if isinstance(self.setup.evaluator, TrainingEvaluator):
            self.setup.evaluator.initialise(network)
        return score(network.to(self.context.device), sample, names, self.context.seed)


def _sample(context: TrialContext, setup: Setup, params: ProxyParams) -> Sample:
    """Batches of the evaluator's training data, the same ones for every trial of the search."""
    from archsearch.evaluate.options import TrainingEvaluator
    from archsearch.evaluate.proxies.scoring import noise, sample_of

    inputs: Any = setup.inputs()
    if inputs is None:
        raise UserError("proxies need the shape of one input; give modelSpace.python.inputShape")
    seed = context.seed
    if isinstance(setup.evaluator, TrainingEvaluator):
        task = setup.evaluator.task()
        return sample_of(task, inputs, batch_size=params.batch_size, batches=params.batches, seed=seed)
    return noise(inputs, batch_size=params.batch_size, seed=seed)
