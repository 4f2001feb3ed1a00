"""What trials of the kinds `supernet` and `inherit` do. Imports torch: for trial children."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from archsearch.errors import BadMetric, UserError
from archsearch.evaluate.determinism import random_state, restore_random_state, seed_everything
from archsearch.evaluate.models import describe_space, overlaid
from archsearch.evaluate.options import TrainingEvaluator
from archsearch.registry import find
from archsearch.spec.base import JsonObject
from archsearch.supernet import distributed
from archsearch.supernet.norms import normalizations, recalibrate
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.parameters import mean_entropy, skip_ratio
from archsearch.supernet.trainer import Epoch, Found, SupernetTrainer
from archsearch.supernet.weights import load_shared
from archsearch.supernet.workbench import Workbench

if TYPE_CHECKING:
    from torch import Tensor, nn

    from archsearch.evaluate.kinds import Setup
    from archsearch.evaluate.tasks import Task
    from archsearch.protocol import Assignment
    from archsearch.space import SearchSpace
    from archsearch.spec.experiment import ModelSpace
    from archsearch.trial.context import TrialContext

logger = logging.getLogger(__name__)
CHECK_EVERY = 32  # steps; on a GPU each look at the loss waits for the device
RECALIBRATION_BATCHES = 20


def find_trainer(name: str) -> type[SupernetTrainer[Any]]:
    """The trainer that is registered under a name in the entry point group `archsearch.supernets`.

    Raises:
        UserError: there is none, or what is registered is no trainer.
    """
    found = find("archsearch.supernets", name)
    if not (isinstance(found, type) and issubclass(found, SupernetTrainer)):
        raise UserError(f"the supernet trainer {name!r} is no subclass of SupernetTrainer, it is {found!r}")
    return found


def training_task(setup: Setup) -> Task:
    """The evaluator's data, loss and measures.

    Raises:
        UserError: the evaluator has none to train a supernet with.
    """
    if not isinstance(setup.evaluator, TrainingEvaluator):
        what = getattr(type(setup.evaluator), "__name__", "the evaluator")
        raise UserError(
            f"a supernet is trained with the data and the loss of a training evaluator (classification, "
            f"text-classification, regression, language-modelling or a subclass of TrainingEvaluator); {what} has none"
        )
    return setup.evaluator.task()


@dataclass
class Watch:
    """The collapse alarm: skip connections take over (Liang 2019, "DARTS+"; Zela 2020).

    While weights are hardly trained skip connections are ahead in healthy searches of deep networks as well: nothing is
    said in the first third of the epochs.
    """

    config: SupernetConfig
    space: SearchSpace
    run: int = 0  # epochs in a row
    raised: bool = False

    def look(self, epoch: Epoch, number: int, *, learning: bool = True) -> tuple[dict[str, float], str]:
        """Metrics of an epoch, and the alarm's words where it is raised by it.

        Args:
            number: of the epoch, from 0.
            learning: whether the architecture was learned in it; else there is nothing to be alarmed about.
        """
        found: dict[str, float] = {}
        if epoch.probabilities:
            found["entropy"] = mean_entropy(epoch.probabilities)
        if epoch.architecture is None:
            return found, ""
        ratio = found["skipRatio"] = skip_ratio(self.space, epoch.architecture)
        self.run = self.run + 1 if learning and ratio >= self.config.collapse_skip_ratio else 0
        if self.raised or self.run < self.config.collapse_epochs or 3 * (number + 1) <= self.config.epochs:
            return found, ""
        self.raised = True
        tail = f", entropy {found['entropy']:.2f}" if "entropy" in found else ""
        return found, (
            f"the search collapses: {ratio:.0%} of the operations would be skip connections for {self.run} epochs in a "
            f"row{tail}; end it earlier, or take darts with selection perturbation, pc-darts or gdas"
        )


@dataclass
class Position:
    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)


class Loop:
    """Epochs and steps of one supernet trial, resumable between any two steps."""

    def __init__(self, context: TrialContext, trainer: SupernetTrainer[Any], space: SearchSpace) -> None:
        self.context, self.trainer, self.bench = context, trainer, trainer.bench
        self.config: SupernetConfig = trainer.config
        if "checkpoint_seconds" in self.config.model_fields_set:
            context.checkpoint_seconds = self.config.checkpoint_seconds
        self.watch = Watch(self.config, space)
        self.position = Position()

    def run(self) -> dict[str, float]:
        """Train to the end; gives the last epoch's metrics.

        Raises:
            BadMetric: the loss is not finite.
            TrialStopped, TrialReleased: told to end.
        """
        found = self.context.load_checkpoint()
        if found is not None:
            self._restore(*found)
        metrics: dict[str, float] = {}
        while self.position.epoch < self.config.epochs:
            metrics = self._epoch()
        return metrics

    def _epoch(self) -> dict[str, float]:
        position, bench = self.position, self.bench
        bench.epoch = position.epoch
        self.context.settle()  # between epochs a trainer may change what it likes
        if position.step == 0:
            self.trainer.begin_epoch(position.epoch)
        steps = self.trainer.steps
        while position.step < steps:
            bench.step = position.step
            with self._finite_numbers():
                loss = self.trainer.step(position.epoch, position.step)
            if loss is not None:
                position.losses.append(torch.as_tensor(loss).detach().float().reshape(()))
            position.step += 1
            if position.step % CHECK_EVERY == 0 and position.losses:
                self._finite()
            if position.step < steps:
                self._checkpoint_point()
        if position.losses:
            self._finite()
        with self._finite_numbers():
            epoch = self.trainer.end_epoch(position.epoch)
        watched, alarm = self.watch.look(epoch, position.epoch, learning=self.trainer.learns(position.epoch))
        trained = {"trainLoss": distributed.mean(self._finite())} if position.losses else {}
        metrics = {**trained, **watched, **epoch.metrics}
        self._check(metrics)
        self.context.report(position.epoch, metrics, weights=epoch.probabilities or None, alarm=alarm)
        position.epoch, position.step, position.losses = position.epoch + 1, 0, []
        bench.epoch, bench.step = position.epoch, 0
        if position.epoch < self.config.epochs:
            self._checkpoint_point()
        return metrics

    @contextmanager
    def _finite_numbers(self) -> Iterator[None]:
        """What a trainer raises over numbers that are none (a draw by chances that are NaN, say) is told as the
        divergence that it is."""
        try:
            yield
        except (RuntimeError, ValueError, ArithmeticError) as error:
            for name, tensor in self.bench.snapshot()[0].items():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise BadMetric(
                        f"the supernet's {name} is not finite in epoch {self.position.epoch + 1}, step "
                        f"{self.position.step + 1}: training diverged; lower learningRate "
                        f"({self.config.learning_rate})"
                    ) from error
            raise

    def _checkpoint_point(self) -> None:
        every = self.config.checkpoint_steps
        if every and self.bench.done and (self.bench.done + (self.position.step > 0)) % every == 0:
            self.context.save_checkpoint(*self._snapshot())
        self.context.checkpoint_point(self._snapshot)

    def _finite(self) -> float:
        mean = float(torch.stack(self.position.losses).mean())
        if not math.isfinite(mean):
            raise BadMetric(
                f"the supernet's training loss is {mean} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step}: training diverged; lower learningRate ({self.config.learning_rate})"
            )
        return mean

    def _check(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise BadMetric(f"metric {name!r} of the supernet is {value} after epoch {self.position.epoch + 1}")

    def _snapshot(self) -> tuple[dict[str, Tensor], JsonObject]:
        tensors, state = random_state(self.bench.device)
        kept, scalars = self.bench.snapshot("kept.")
        tensors |= kept | self.bench.own_statistics()
        if self.position.losses:
            tensors["losses"] = torch.stack(self.position.losses).cpu()
        return tensors, {
            "random": state,
            "kept": scalars,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "watch": [self.watch.run, self.watch.raised],
        }

    def _restore(self, tensors: dict[str, Tensor], state: JsonObject) -> None:
        held = {n.removeprefix("kept."): value for n, value in tensors.items() if n.startswith("kept.")}
        self.bench.restore(held, state["kept"])
        if "ranks" in tensors:
            self.bench.restore_statistics(tensors["ranks"])
        losses = list(tensors["losses"].to(self.bench.device).unbind()) if "losses" in tensors else []
        self.position = Position(int(state["epoch"]), int(state["step"]), losses)
        self.bench.epoch, self.bench.step = self.position.epoch, self.position.step
        self.watch.run, self.watch.raised = int(state["watch"][0]), bool(state["watch"][1])
        restore_random_state(tensors, state["random"], self.bench.device)


def run_supernet(context: TrialContext, setup: Setup) -> tuple[dict[str, float], JsonObject]:
    """Train shared weights as ``params.trainer`` and ``params.config`` say.

    ``params.modelArgs`` are laid over the arguments of the model space: a supernet may be shallower or narrower than
    the networks that the search is for, with the same choices. The shared weights, and behind `weights.OTHER` what else
    the trainer keeps, become the trial's final weights.

    Returns:
        The last epoch's metrics; and ``{architectures: [{architecture, score}], epochs}``, best first, with the
        trainer's own `notes`.

    Raises:
        UserError: no such trainer, wrong options, a space that it cannot take, or a foreign checkpoint.
        BadMetric: the loss is not finite.
    """
    params = context.assignment.params
    kind = find_trainer(str(params.get("trainer", "")))
    config = kind.Config.model_validate(params.get("config") or {})
    distributed.start(context)
    task = training_task(setup)
    seed_everything(context.seed, context.device)
    whole, space, model_space = build_overlaid(setup, context.assignment)
    if problems := kind.check(space, config):
        raise UserError(f"{params['trainer']} cannot search this space: {problems[0]}")
    del whole  # the trainer makes its own

    def build() -> nn.Module:
        model, _ = setup.build(model_space)
        if isinstance(setup.evaluator, TrainingEvaluator):
            setup.evaluator.initialise(model)
        return model

    bench = Workbench(
        context,
        config,
        task,
        build,
        inputs=setup.inputs(),
        source=context.load_input(),
    )
    trainer = kind(config, bench)
    seed_everything(context.seed, context.device)
    trainer.build()
    if config.compile and bench.compiled is None:
        logger.warning("%s is not compiled: what takes part in a step changes from step to step", params["trainer"])
    metrics = Loop(context, trainer, space).run()
    found = trainer.finish()
    distributed.average_tensors(bench.statistics())
    context.final_weights(*bench.shared())
    return metrics, {
        **trainer.notes(),
        "architectures": [_found(space, each) for each in found],
        "epochs": config.epochs,
    }


def run_inherit(context: TrialContext, setup: Setup, model: nn.Module) -> dict[str, float]:
    """The evaluator's metrics of one path of a supernet, its batch normalizations' statistics measured anew.

    ``params.recalibrate`` says on how many batches of training examples (default 20; 0: the shared statistics stay).

    Args:
        model: the plain network with its shared weights, see `inherited`.
    """
    task = training_task(setup)
    config = SupernetConfig(
        batch_size=int(context.assignment.params.get("batchSize", 64)),
        architecture_share=0.0,
    )
    bench = Workbench(context, config, task, lambda: model)
    bench.seed = 0  # the same examples for every candidate: they are compared with each other
    model.to(context.device)
    count = int(context.assignment.params.get("recalibrate", RECALIBRATION_BATCHES))
    if count and normalizations(model):
        recalibrate(model, model, bench.calibration(count))
    return bench.validate(model)


def inherited(context: TrialContext, whole: nn.Module, architecture: Mapping[str, Any]) -> nn.Module:
    """The plain network of an architecture with the weights of the supernet that the assignment names.

    Raises:
        UserError: it names none, or another network's.
    """
    from archsearch.nn import fix

    found = context.load_input()
    if found is None:
        raise UserError("an inherit trial needs params.checkpointOf: the number of the supernet trial it inherits from")
    load_shared(whole, found[0])
    return fix(whole, architecture)


def check_digest(space: SearchSpace, digest: str | None) -> None:
    """Raise UserError where a space is another one than the search's."""
    if digest is not None and space.digest != digest:
        raise UserError(
            f"the search space has the digest {space.digest[:12]}, the search was made with {digest[:12]}: the code or "
            "its arguments changed; use the code that the search used"
        )


def build_overlaid(setup: Setup, assignment: Assignment) -> tuple[nn.Module, SearchSpace, ModelSpace]:
    """The network of a supernet or of what inherits from it, with ``params.modelArgs`` laid over its arguments.

    Returns:
        The network with all its choices, its space, and the modelSpace with every argument filled in.

    Raises:
        UserError: it cannot be built, or has other choices than the networks that the search is for.
    """
    args = assignment.params.get("modelArgs")
    whole, model_space = setup.build(overlaid(assignment.model_space, args))
    space = describe_space(whole)
    if not args:
        check_digest(space, assignment.space_digest)
        return whole, space, model_space
    with torch.random.fork_rng(devices=[]):
        searched = describe_space(setup.build(assignment.model_space)[0])
    check_digest(searched, assignment.space_digest)
    if _decisions(searched) != _decisions(space):
        raise UserError(
            f"with the arguments {args} the model space has other choices than the search: they may change a network's "
            "depth, width and the like, not what is chosen"
        )
    return whole, space, model_space


def _decisions(space: SearchSpace) -> JsonObject:
    """A space without the places that its choices decide: those differ with a network's depth."""
    document = space.to_json()
    choices = [{name: value for name, value in each.items() if name != "members"} for each in document["choices"]]
    return {**document, "choices": choices}


def _found(space: SearchSpace, found: Found) -> JsonObject:
    return {"architecture": space.validate(found.architecture).to_json(), "score": found.score}


def ranked(found: Sequence[Found]) -> list[Found]:
    """Best first; those without a score last, in their order."""
    return sorted(found, key=lambda each: math.inf if each.score is None else -each.score)
