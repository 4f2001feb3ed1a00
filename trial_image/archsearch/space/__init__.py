"""Search spaces and architectures: data, arithmetic and randomness, with no torch.

A search space is a JSON document of named choices; an architecture is a JSON object ``{choice: decision}``.
"""

from __future__ import annotations

from archsearch.space.architecture import Architecture
from archsearch.space.canonical import canonical_json, digest
from archsearch.space.choices import Categorical, Choice, Decision, Ordinal, Scalar, Subset, Term
from archsearch.space.constraints import Constraint
from archsearch.space.errors import ArchitectureError, SpaceError
from archsearch.space.isomorphism import register_canonicaliser
from archsearch.space.nni import architecture_from_nni, architecture_to_nni, space_from_nni, space_to_nni
from archsearch.space.rng import Rng
from archsearch.space.space import SearchSpace

__all__ = [
    "Architecture",
    "ArchitectureError",
    "Categorical",
    "Choice",
    "Constraint",
    "Decision",
    "Ordinal",
    "Rng",
    "Scalar",
    "SearchSpace",
    "SpaceError",
    "Subset",
    "Term",
    "architecture_from_nni",
    "architecture_to_nni",
    "canonical_json",
    "digest",
    "register_canonicaliser",
    "space_from_nni",
    "space_to_nni",
]
