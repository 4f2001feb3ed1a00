"""Word vectors from a file into a network's embedding. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from archsearch.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def take_vectors(
    model: nn.Module, vectors: Mapping[int, NDArray[Any]], vocabulary: int, file: str, freeze: bool
) -> None:
    """Write `vectors` (by token number) into the first embedding of `model` that has `vocabulary` rows.

    Rows of tokens that the file lacks keep their first, random values.

    Args:
        freeze: Train none of the embedding's rows.

    Raises:
        UserError: no such embedding, vectors of another length, or no word of the vocabulary in the file.
    """
    found = next(
        (each for each in model.modules() if isinstance(each, nn.Embedding) and each.num_embeddings == vocabulary), None
    )
    if found is None:
        raise UserError(
            f"wordVectors: {type(model).__name__} has no torch.nn.Embedding of {vocabulary} rows, one for each token "
            "number: let its constructor take `vocabulary`"
        )
    if not vectors:
        raise UserError(f"wordVectors: {file} holds none of the data's words; take vectors of the texts' language")
    length = len(next(iter(vectors.values())))
    if found.embedding_dim != length:
        raise UserError(
            f"wordVectors: the vectors in {file} have {length} numbers, the network's embedding {found.embedding_dim}: "
            "let its constructor take `embedding_size`, or give it that in args"
        )
    with torch.no_grad():
        for number, vector in vectors.items():
            found.weight[number] = torch.from_numpy(vector)
    found.weight.requires_grad_(not freeze)
