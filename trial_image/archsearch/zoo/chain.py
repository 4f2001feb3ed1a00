"""What the spaces of a chain of blocks have in common: their notation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archsearch.errors import UserError


def block_decisions(
    space: str, notation: Any, candidates: Sequence[Sequence[str]], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """From a list of block names, or of their indices among the candidates, to ``{block_NUMBER: name}``.

    Args:
        candidates: of each block.
        aliases: other names.

    Raises:
        UserError: too many or too few blocks, an unknown name or index; the text names the block.
    """
    blocks = list(notation) if isinstance(notation, Iterable) and not isinstance(notation, str) else None
    if blocks is None or len(blocks) != len(candidates):
        raise UserError(
            f"{space}: a notation lists {len(candidates)} blocks by name or index, not "
            f"{notation if blocks is None else f'{len(blocks)} of them'}"
        )
    return {f"block_{i}": _named(space, i, block, candidates[i], aliases) for i, block in enumerate(blocks)}


def _named(space: str, i: int, block: Any, names: Sequence[str], aliases: Mapping[str, str]) -> str:
    if isinstance(block, int) and not isinstance(block, bool) and 0 <= block < len(names):
        return names[block]
    if isinstance(block, str):
        name = aliases.get(block, block).replace(".", "_")
        if name in names:
            return name
    raise UserError(
        f"{space}: block {i} is {block!r}; expected one of {', '.join(names)} or an index below {len(names)}"
    )
