"""Simulations that a table answers."""

from __future__ import annotations

from typing import Any

from archsearch.errors import UserError
from archsearch.evaluate.table import find_space
from archsearch.evaluate.tabular import Tabular
from archsearch.protocol import TrialKind, TrialState
from archsearch.space import SearchSpace
from archsearch.spec.experiment import NASExperiment
from archsearch.spec.problems import SpecError
from archsearch.trial.context import Infeasible
from archsearch_strategies.checks import check_experiment
from archsearch_strategies.driver.rows import Row
from archsearch_strategies.making import make_strategy
from archsearch_strategies.simulate.cluster import Answer, Answers, Cluster, Point
from archsearch_strategies.simulate.simulation import Simulated, Simulation


def table_answers(evaluator: Tabular) -> Answers:
    """Answers of the evaluator `tabular`: its metrics after the table's seconds (one second, where it has no cost).

    What the table lacks is infeasible, at no cost. Trials of the kind proxy are answered from the table of proxies.
    UserError from a table comes out of the simulation.
    """
    costs = bool(evaluator.config.cost)

    def answers(row: Row) -> Answer:
        if row.kind is TrialKind.PROXY:
            payload, proxies = evaluator.proxy_scores(row.params), evaluator.config.proxies
            each = proxies.seconds if proxies is not None else 0.0
            return Answer(seconds=each * len(payload["scores"]), payload=payload)
        try:
            found = evaluator.answer(row.architecture or {}, row.params, row.seed)
        except Infeasible as error:
            return Answer(seconds=0.0, state=TrialState.INFEASIBLE, message=str(error))
        curve = evaluator.curve(row.architecture or {}, row.params, row.seed)
        points = tuple(Point(each.seconds, each.fidelity - 1, each.metrics) for each in curve)
        return Answer(found.metrics, found.seconds if costs else 1.0, curve=points)

    return answers


def simulate_experiment(
    experiment: NASExperiment, *, space: SearchSpace | None = None, cluster: Cluster | None = None, **options: Any
) -> Simulated:
    """A manifest whose evaluator is `tabular`, simulated with its own strategy, budgets, retries and parallelTrials.

    Args:
        space: of the manifest's modelSpace; by default the table's own, or that of its zoo entry.
        options: further ones of `Simulation`.

    Raises:
        SpecError: the manifest has problems.
        UserError: its evaluator is another, or the table cannot be used.
    """
    if problems := check_experiment(experiment):
        raise SpecError(problems)
    spec = experiment.spec
    if spec.evaluator.name != "tabular":
        raise UserError(
            f"only the evaluator 'tabular' can be simulated, not {spec.evaluator.name or 'a user function'!r}"
        )
    evaluator = Tabular.configure(spec.evaluator.config)
    if space is None:
        zoo = spec.model_space.zoo
        space = find_space(zoo.name) if zoo is not None and not zoo.args else evaluator.table.space
    simulation = Simulation(
        lambda: make_strategy(spec),
        space,
        spec.objectives,
        table_answers(evaluator),
        seed=spec.seed,
        budget=spec.budget,
        parallelism=spec.parallel_trials,
        retries=spec.trials.retries,
        cluster=cluster,
        stopping=spec.stopping,
        **options,
    )
    return simulation.run()
