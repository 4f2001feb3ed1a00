"""Reasons of conditions and verdicts: the words that people match on. Each is documented and means one thing."""

from __future__ import annotations

# Accepted
PENDING_VALIDATION = "PendingValidation"  # the driver has not checked strategy, evaluator, objectives and space yet
ACCEPTED = "Accepted"  # the search may run
SPEC_INVALID = "SpecInvalid"  # the spec cannot run; the message names field, value and remedy

# Waiting: the driver tells what its trial pods wait for
IMAGE_UNAVAILABLE = "ImageUnavailable"  # an image cannot be pulled
QUOTA_PENDING = "QuotaPending"  # a quota or a queue holds the pods back
UNSCHEDULABLE = "Unschedulable"  # no node has room
POD_NOT_STARTING = "PodNotStarting"  # a container cannot be made: a Secret, a ConfigMap or a volume is missing
STORE_UNAVAILABLE = "StoreUnavailable"  # the object store does not answer, or refuses the keys
STRATEGY_CRASHED = "StrategyCrashed"  # the strategy pod ended abnormally and is started again

# Running, Suspended
SEARCHING = "Searching"
STARTING = "Starting"
SUSPENDED = "Suspended"
NOT_SUSPENDED = "NotSuspended"
FINISHED = "Finished"

# Events only
ARCHITECTURE_COLLAPSE = "ArchitectureCollapse"  # a supernet's architecture degenerates, mostly to skip connections

# Succeeded, Failed
GOAL_REACHED = "GoalReached"  # an objective's target was met
MAX_TRIALS_REACHED = "MaxTrialsReached"  # budget.maxTrials trials are finished
BUDGET_EXHAUSTED = "BudgetExhausted"  # budget.maxGpuSeconds is used up
DEADLINE_EXCEEDED = "DeadlineExceeded"  # budget.maxDurationSeconds is over
SEARCH_FINISHED = "SearchFinished"  # the strategy has nothing more to try
TOO_MANY_FAILED_TRIALS = "TooManyFailedTrials"  # more than budget.maxFailedTrials trials failed
NON_DETERMINISTIC = "NonDeterministic"  # a replayed strategy asked for something else than the ledger recorded
SEARCH_FAILED = "SearchFailed"  # a trial that all others depend on failed, a supernet's for example
STRATEGY_ERROR = "StrategyError"  # the strategy's own code raised an exception
IN_PROGRESS = "InProgress"
WORKERS_FAILED = "WorkersFailed"  # workers end again and again before they serve; the message has their last words
