"""A whole search in moments: the driver's own rules and any strategy under a simulated clock, in memory.

>>> answers = table_answers(Tabular(TabularConfig(table="cells.npz", metric="val", cost="seconds*0.06")))
>>> simulation = Simulation(strategy, space, [Objective(metric="val")], answers, seed=1, budget=Budget(max_trials=200))
>>> simulation.run().best.metrics
"""

from archsearch_strategies.simulate.cluster import Answer, Answers, Cluster, Point
from archsearch_strategies.simulate.simulation import Simulated, Simulation, Stalled
from archsearch_strategies.simulate.tabular import simulate_experiment, table_answers

__all__ = [
    "Answer",
    "Answers",
    "Cluster",
    "Point",
    "Simulated",
    "Simulation",
    "Stalled",
    "simulate_experiment",
    "table_answers",
]
