"""The evaluator `tabular`: answers from a table of measured architectures instead of training. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from archsearch.errors import UserError
from archsearch.evaluate.base import Evaluator, EvaluatorConfig
from archsearch.evaluate.data.base import file_digest
from archsearch.evaluate.proxies import Proxy
from archsearch.evaluate.proxies.params import ProxyParams
from archsearch.evaluate.proxies.tables import open_scores
from archsearch.evaluate.table import Cost, Table, open_table
from archsearch.protocol import FIDELITY, RESUMED_FIDELITY, fidelity_of
from archsearch.space.errors import listed, shown
from archsearch.spec.base import JsonObject, MetricName, Model
from archsearch.trial.context import Infeasible

if TYPE_CHECKING:
    from archsearch.trial.context import TrialContext

SECONDS = "trainSeconds"  # the metric under which an answer's cost is reported
RESUMED = RESUMED_FIDELITY

Column = Annotated[str, Field(min_length=1, max_length=253)]
CostText = Annotated[str, Field(max_length=300)]


def _cost(text: str) -> str:
    if text:
        Cost.parse(text)
    return text


class Fidelity(Model):
    """A cheaper training of the same architectures."""

    metric: Column = Field(description="Column that is reported under the name of the evaluator's own metric.")
    cost: CostText = Field(default="", description="COLUMN or COLUMN*FACTOR: seconds.")

    _check_cost = field_validator("cost")(_cost)


class ProxyTable(Model):
    """Zero-cost proxies from a table of their own."""

    table: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="An npz with values (rows, columns) and columns (names); with index, row numbers of the "
        "evaluator's table, where it has not as many rows."
    )
    columns: Annotated[dict[Proxy, Column], Field(max_length=len(Proxy))] = Field(
        default_factory=dict,
        description="Column by proxy, where it has another name than the proxy itself (and naswot another than nwot).",
    )
    seconds: float = Field(default=0.0, ge=0.0, allow_inf_nan=False, description="Charged for each architecture.")


class TabularConfig(EvaluatorConfig):
    """Options of the evaluator `tabular`."""

    table: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="An npz: ops (rows, choices), candidates (JSON, or see space), and columns of measurements."
    )
    metric: MetricName = Field(description="Column that is reported, under this name.")
    also: Annotated[list[MetricName], Field(max_length=64)] = Field(
        default_factory=list, description="Further columns to report."
    )
    cost: CostText = Field(
        default="", description="COLUMN or COLUMN*FACTOR: the seconds that an answer is charged with."
    )
    space: Annotated[str, Field(max_length=63)] = Field(
        default="", description="Zoo entry that the indices of a table without candidates belong to."
    )
    choices: Annotated[list[Column], Field(max_length=4096)] = Field(
        default_factory=list, description="Names of the choices, column by column, where no space tells them."
    )
    seeds: Literal["mean", "draw"] = Field(
        default="mean", description="A column with several seeds: their mean, or one drawn by the trial's seed."
    )
    fidelities: Annotated[dict[str, Fidelity], Field(max_length=64)] = Field(
        default_factory=dict, description="By name what a trial with the parameter fidelity is answered from."
    )
    continued: bool = Field(
        default=False,
        description="Fidelities are points of one training: a trial that goes on from one is charged the difference.",
    )

    proxies: ProxyTable | None = Field(
        default=None, description="Where trials of the kind proxy are answered from; absent: they fail."
    )

    _check_cost = field_validator("cost")(_cost)


@dataclass(frozen=True)
class Answer:
    """What a table says of one trial."""

    metrics: dict[str, float]
    seconds: float  # charged; 0 where the configuration names no cost
    row: int


@dataclass(frozen=True)
class OnTheWay:
    """A point of the training that leads to an answer."""

    fidelity: int
    metrics: dict[str, float]
    seconds: float  # since the trial's start


def numbered(names: Iterable[str]) -> tuple[int, ...]:
    """The names that are whole numbers from 1 on, as these, ascending."""
    return tuple(sorted(int(name) for name in names if name.isdecimal() and int(name) > 0))


class Tabular(Evaluator):
    """Looks an architecture up and reports its columns; what the table lacks is infeasible.

    A trial with the parameter ``fidelity`` is answered from that fidelity's column, under the name of `metric`. The
    cost is charged to the trial as GPU seconds, so that budgets hold in the table's own seconds.
    """

    Config: ClassVar[type[EvaluatorConfig]] = TabularConfig
    needs_network: ClassVar[bool] = False
    config: TabularConfig

    def __init__(self, config: EvaluatorConfig, table: Table | None = None) -> None:
        super().__init__(config)
        self._table = table
        self._costs: dict[str, Cost] = {}

    @property
    def table(self) -> Table:
        """Opened when it is first asked for.

        Raises:
            UserError: it cannot be read, or lacks a column that the configuration names.
        """
        if self._table is None:
            self._table = open_table(self.config.table, self.config.space, self.config.choices)
        return self._table

    @classmethod
    def metrics(cls, config: Any) -> tuple[str, ...]:
        return (config.metric, *config.also, *((SECONDS,) if config.cost else ()))

    @classmethod
    def data_digests(cls, config: Any) -> dict[str, str]:
        return {"table": file_digest(Path(config.table))}

    @classmethod
    def fidelities(cls, config: Any) -> tuple[int, ...]:
        return numbered(config.fidelities)

    def answer(self, architecture: Mapping[str, Any], params: JsonObject | None = None, seed: int = 0) -> Answer:
        """What the table says.

        Args:
            architecture: decisions by choice.
            params: the trial's; `fidelity` and `resumedFidelity` name fidelities.
            seed: the trial's, for ``seeds: draw``.

        Raises:
            Infeasible: the table has no such architecture, or lacks a value of it.
            UserError: no such column, choice or fidelity.
        """
        row = self.table.row(architecture)
        if row is None:
            raise Infeasible(f"{self.table.path} has no row for the architecture {shown(dict(architecture))}")
        column, cost = self._fidelity((params or {}).get(FIDELITY))
        metrics = {self.config.metric: self._value(row, column, seed)}
        metrics |= {name: self._value(row, name, seed) for name in self.config.also}
        if not cost:
            return Answer(metrics, 0.0, row)
        seconds = self._seconds(row, cost, seed)
        resumed = (params or {}).get(RESUMED)
        if self.config.continued and resumed is not None and (earlier := self._fidelity(resumed)[1]):
            seconds = max(0.0, seconds - self._seconds(row, earlier, seed))
        return Answer(metrics | {SECONDS: seconds}, seconds, row)

    def proxy_scores(self, params: JsonObject) -> JsonObject:
        """The payload of a trial of the kind proxy (see `archsearch.evaluate.proxies.trial`), from its table.

        A size (params, flops) that it lacks is looked for in the evaluator's own table.

        Raises:
            UserError: there is no such table, it lacks a column that is asked for, or params make no sense.
        """
        if self.config.proxies is None:
            raise UserError(
                "the strategy asks for zero-cost proxies, and the evaluator tabular builds no networks: name a table "
                "of them in evaluator.config.proxies (--proxies of a bench), or leave the strategy's option proxies out"
            )
        found = open_scores(self.config.proxies.table, self.table)
        asked = ProxyParams.read(params)
        own = {str(name): column for name, column in self.config.proxies.columns.items()}
        return found.payload(asked.architectures, [str(name) for name in asked.names], own)

    def curve(self, architecture: Mapping[str, Any], params: JsonObject | None = None, seed: int = 0) -> list[OnTheWay]:
        """Where fidelities are points of one training, those that lie on the way to the answer.

        From the one that the trial goes on from, up to its own, neither of them included; a missing value is no point.

        Args:
            architecture, params, seed: as for `answer`.
        """
        row = self.table.row(architecture)
        if row is None or not self.config.continued:
            return []
        wanted, since = fidelity_of(params or {}), (params or {}).get(RESUMED, 0)
        begun = self._seconds(row, self._fidelity(since)[1], seed) if since and self._fidelity(since)[1] else 0.0
        points = []
        for number in self.fidelities(self.config):
            column, cost = self._fidelity(number)
            value = self.table.value(row, column, self.config.seeds, seed)
            if float(since) < number < wanted and value is not None:
                seconds = self._seconds(row, cost, seed) - begun if cost else 0.0
                points.append(OnTheWay(number, {self.config.metric: value}, max(0.0, seconds)))
        return points

    def evaluate(self, model: Any, context: TrialContext) -> dict[str, float]:
        """`answer` for the assignment; `model` is not used. Raises what `answer` raises."""
        found = self.answer(context.assignment.architecture or {}, context.assignment.params, context.seed)
        if self.config.cost:
            context.charged_seconds = found.seconds
        for point in self.curve(context.assignment.architecture or {}, context.assignment.params, context.seed):
            context.report(point.fidelity - 1, point.metrics)
        return found.metrics

    def _fidelity(self, wanted: Any) -> tuple[str, str]:
        """Column and cost."""
        if wanted is None:
            return self.config.metric, self.config.cost
        found = self.config.fidelities.get(f"{wanted:g}" if isinstance(wanted, float) else str(wanted))
        if found is None:
            known = listed(sorted(self.config.fidelities)) or "none"
            raise UserError(f"the table is asked for the fidelity {wanted!r}; evaluator.config.fidelities has {known}")
        return found.metric, found.cost

    def _value(self, row: int, column: str, seed: int) -> float:
        value = self.table.value(row, column, self.config.seeds, seed)
        if value is None:
            raise Infeasible(f"{self.table.path} has no {column!r} of the architecture in row {row}")
        return value

    def _seconds(self, row: int, text: str, seed: int) -> float:
        cost = self._costs.get(text) or self._costs.setdefault(text, Cost.parse(text))
        seconds = self.table.seconds(row, cost, self.config.seeds, seed)
        if seconds is None:
            raise Infeasible(f"{self.table.path} has no {cost.column!r} of the architecture in row {row}")
        return seconds
