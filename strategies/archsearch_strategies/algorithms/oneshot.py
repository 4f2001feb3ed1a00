"""What all one-shot strategies have in common: a supernet trial, then its architectures on inherited weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from archsearch.protocol import TrialKind, TrialState
from archsearch.space import SearchSpace
from archsearch.spec.base import FreeForm, JsonObject
from archsearch.supernet.options import SupernetConfig
from archsearch.supernet.trainer import SupernetTrainer
from archsearch_strategies.strategy import Run, SearchFailed, Strategy, StrategyConfig, Submission, Trial


class OneShotConfig(SupernetConfig, StrategyConfig):
    """Options of the supernet's training, and of what is done with the architectures that it gives."""

    model_args: FreeForm = Field(
        default_factory=dict,
        description="Arguments of the model space for the supernet alone, laid over modelSpace's: a shallower or "
        "narrower network with the same choices, for example {channels: 16, cells: 8}.",
    )
    recalibrate: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=20,
        description="Batches on which an architecture's normalization statistics are measured before its inherited "
        "weights are judged; 0: the supernet's are taken.",
    )


C = TypeVar("C", bound=OneShotConfig)


class OneShot(Strategy[C]):
    """A supernet trial, an `inherit` trial of each architecture that it gives, then (the driver's) `retrain` trials.

    A subclass names its trainer; one whose plan differs overrides `search`.
    """

    Config: ClassVar[type[StrategyConfig]] = OneShotConfig
    Trainer: ClassVar[type[SupernetTrainer[Any]]]
    trainer: ClassVar[str]  # its name in the entry point group archsearch.supernets
    retrains: ClassVar[int] = 1
    controls: ClassVar[int] = 1  # random architectures of equal size, trained again beside the best
    kinds: ClassVar[tuple[TrialKind, ...]] = (TrialKind.SUPERNET, TrialKind.INHERIT)

    def check(self, space: SearchSpace) -> list[str]:
        return self.Trainer.check(space, self.config)

    async def search(self, run: Run) -> None:
        supernet = await self.train(run)
        await self.inherit(run, supernet, found(supernet))

    async def train(
        self,
        run: Run,
        *,
        stage: str = "supernet",
        begin_with: Trial | None = None,
        trainer: str = "",
        config: JsonObject | None = None,
        model_args: JsonObject | None = None,
        **changes: Any,
    ) -> Trial:
        """One supernet trial under this strategy's options.

        Args:
            stage: the phase's name.
            begin_with: the supernet trial whose weights and learned state it begins with.
            trainer: another one than the strategy's.
            config: all of the trainer's options, in place of the strategy's.
            model_args: arguments of the model space for this trial, in place of the strategy's `modelArgs`.
            changes: options that differ from the strategy's, by their names in Python.

        Raises:
            SearchFailed: the trial failed.
        """
        run.stage(stage)
        if config is None:
            config = self.config.model_copy(update=changes).to_json()
        params: JsonObject = {"trainer": trainer or self.trainer, "config": config}
        if args := self.config.model_args if model_args is None else model_args:
            params["modelArgs"] = args
        if begin_with is not None:
            params["checkpointOf"] = begin_with.number
        trial = await run.trial(TrialKind.SUPERNET, params=params)
        if trial.state not in (TrialState.SUCCEEDED, TrialState.CACHED):
            why = trial.message.strip().splitlines()
            raise SearchFailed(
                f"the supernet trial {trial.number} is {trial.state.value}: {why[-1] if why else 'no reason'}"
            )
        return trial

    async def inherit(self, run: Run, supernet: Trial, architectures: Sequence[Mapping[str, Any]]) -> list[Trial]:
        """Judge architectures on the supernet's weights; that makes them candidates for the best."""
        run.stage("inherit")
        return await run.trials(
            Submission(run.space.validate(architecture), TrialKind.INHERIT, self.inheritance(supernet))
            for architecture in architectures
        )

    def inheritance(self, supernet: Trial) -> JsonObject:
        """The params of an inherit trial."""
        args = supernet.params.get("modelArgs")
        return {
            "checkpointOf": supernet.number,
            "recalibrate": self.config.recalibrate,
            "batchSize": self.config.batch_size,
            **({"modelArgs": args} if args else {}),
        }


def found(supernet: Trial) -> list[Mapping[str, Any]]:
    """The architectures that a supernet trial gives, best first."""
    payload = supernet.payload if isinstance(supernet.payload, dict) else {}
    return [each["architecture"] for each in payload.get("architectures", [])]
