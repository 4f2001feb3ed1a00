"""The manifest: pydantic models of NASExperiment, from which the CRD is generated. No torch, no Kubernetes client."""

from archsearch.spec.experiment import (
    MUTABLE_FIELDS,
    Budget,
    EvaluatorSpec,
    ExperimentSpec,
    Goal,
    ModelSpace,
    NASExperiment,
    Objective,
    Storage,
)
from archsearch.spec.pods import Isolation
from archsearch.spec.status import ExperimentStatus, SearchStatus

__all__ = [
    "MUTABLE_FIELDS",
    "Budget",
    "EvaluatorSpec",
    "ExperimentSpec",
    "ExperimentStatus",
    "Goal",
    "Isolation",
    "ModelSpace",
    "NASExperiment",
    "Objective",
    "SearchStatus",
    "Storage",
]
