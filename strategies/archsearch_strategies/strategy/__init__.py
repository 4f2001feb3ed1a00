"""What a strategy is and what it sees: a coroutine over trials that awaits only its `Run`.

The coroutine is driven step by step by an `Execution`, without an event loop: it runs until it waits for something
from outside (a result, a changed parallelism, an expensive computation) and goes on when that is fed in. So the same
strategy serves the durable driver, a simulator and a notebook (`AskTell`), and the same inputs in the same order
always give the same outputs.
"""

from archsearch_strategies.strategy.base import Strategy, StrategyConfig
from archsearch_strategies.strategy.execution import AskTell, Execution
from archsearch_strategies.strategy.run import Compute, Note, Output, Run, Stage, Stop, Submit, strategy_run
from archsearch_strategies.strategy.trial import (
    CHECKPOINT_OF,
    Json,
    PriorPoint,
    Result,
    SearchFailed,
    StrategyError,
    Submission,
    Trial,
    objective_values,
    prior_points,
)

__all__ = [
    "CHECKPOINT_OF",
    "AskTell",
    "Compute",
    "Execution",
    "Json",
    "Note",
    "Output",
    "PriorPoint",
    "Result",
    "Run",
    "SearchFailed",
    "Stage",
    "Stop",
    "Strategy",
    "StrategyConfig",
    "StrategyError",
    "Submission",
    "Submit",
    "Trial",
    "objective_values",
    "prior_points",
    "strategy_run",
]
