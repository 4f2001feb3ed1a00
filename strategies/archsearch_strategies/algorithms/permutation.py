"""A seeded permutation of 0 … n − 1 that is computed index by index."""

from __future__ import annotations

import hashlib

from archsearch.space import Rng

_ROUNDS = 6


class Permutation:
    """Index i to the i-th number of a pseudo-random order, in constant memory, for n of any size.

    A balanced Feistel network over the smallest even number of bits that holds n, with cycle walking (Black and
    Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002): at most four steps in the mean.
    """

    def __init__(self, n: int, rng: Rng) -> None:
        if n < 1:
            raise ValueError(f"a permutation is of n >= 1 numbers, not {n}")
        self._n = n
        self._half = max(1, -(-(n - 1).bit_length() // 2))
        self._mask = (1 << self._half) - 1
        self._bytes = -(-self._half // 8)
        self._keys = [rng.word().to_bytes(8, "little") for _ in range(_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._n:
            raise IndexError(f"the permutation has the indices 0 … {self._n - 1}, not {index}")
        value = self._encrypt(index)
        while value >= self._n:
            value = self._encrypt(value)
        return value

    def _encrypt(self, value: int) -> int:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            stream = hashlib.shake_128(key + right.to_bytes(self._bytes, "little")).digest(self._bytes)
            left, right = right, left ^ (int.from_bytes(stream, "little") & self._mask)
        return left << self._half | right
