"""Random numbers that are the same on every platform, Python and library version.

The generator is SHAKE-128 (FIPS 202) over (key, block number): words of 64 bits, little endian, drawn in order. Only
integer operations and IEEE 754 basic operations with the square root are used (no libm), so every result is exact.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS = 64
_UNPACK = struct.Struct(f"<{_WORDS}Q").unpack
_MASK = (1 << 64) - 1


class Rng:
    """A generator seeded by an integer or a string. Not thread-safe; `fork` gives independent ones.

    Args:
        seed: any integer, or any string. Equal seeds give equal sequences; 1 and "1" differ.
    """

    __slots__ = ("_at", "_block", "_key", "_spare", "_words")

    def __init__(self, seed: int | str) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | str):
            raise TypeError(f"a seed is an integer or a string, not {type(seed).__name__}")
        self._key = hashlib.sha256(f"archsearch-rng-1:{'i' if isinstance(seed, int) else 's'}:{seed}".encode()).digest()
        self._block = 0
        self._at = _WORDS
        self._words: tuple[int, ...] = ()
        self._spare: float | None = None

    def _refill(self) -> None:
        block = hashlib.shake_128(self._key + self._block.to_bytes(8, "little")).digest(8 * _WORDS)
        self._words = _UNPACK(block)
        self._block += 1
        self._at = 0

    def word(self) -> int:
        """A uniform integer of 64 bits."""
        if self._at == _WORDS:
            self._refill()
        at = self._at
        self._at = at + 1
        return self._words[at]

    def integer(self, n: int) -> int:
        """A uniform integer in 0 … n − 1, without bias, for n of any size.

        Raises:
            ValueError: n < 1.
        """
        if n < 1:
            raise ValueError(f"integer(n) needs n >= 1, not {n}")
        if n > _MASK:
            return self._large(n)
        # Lemire 2019, "Fast random integer generation in an interval", algorithm 5.
        product = self.word() * n
        if (product & _MASK) < n:
            threshold = (_MASK + 1 - n) % n
            while (product & _MASK) < threshold:
                product = self.word() * n
        return product >> 64

    def _large(self, n: int) -> int:
        bits = (n - 1).bit_length()
        while True:
            value = 0
            for _ in range(-(-bits // 64)):
                value = value << 64 | self.word()
            value &= (1 << bits) - 1
            if value < n:
                return value

    def random(self) -> float:
        """A uniform float in [0, 1): a multiple of 2**-53."""
        return (self.word() >> 11) * 2.0**-53

    def choice(self, items: Sequence[T]) -> T:
        """A uniform element.

        Raises:
            ValueError: `items` is empty.
        """
        return items[self.integer(len(items))]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """k elements at different positions, in random order.

        Raises:
            ValueError: k is negative or larger than the number of items.
        """
        if not 0 <= k <= len(items):
            raise ValueError(f"cannot draw {k} of {len(items)} items without replacement")
        pool = list(items)
        for i in range(k):
            j = i + self.integer(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Shuffle in place (Fisher and Yates)."""
        for i in range(len(items) - 1, 0, -1):
            j = self.integer(i + 1)
            items[i], items[j] = items[j], items[i]

    def normal(self) -> float:
        """A float of the standard normal distribution (Marsaglia's polar method)."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        while True:
            x = 2.0 * self.random() - 1.0
            y = 2.0 * self.random() - 1.0
            s = x * x + y * y
            if 0.0 < s < 1.0:
                break
        scale = math.sqrt(-2.0 * _log(s) / s)
        self._spare = y * scale
        return x * scale

    def fork(self, label: int | str) -> Rng:
        """An independent generator that depends on this one's seed and the label only, not on what was drawn before."""
        child = Rng(label)
        child._key = hashlib.sha256(b"archsearch-rng-fork:" + self._key + child._key).digest()
        return child


def _log(x: float) -> float:
    """ln x for 0 < x < inf by the series of atanh: the last bit of a platform's own logarithm varies."""
    mantissa, exponent = math.frexp(x)
    if mantissa < 0.7071067811865476:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    z = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = z * z, 0.0
    for n in range(25, 0, -2):
        total = total * square + 1.0 / n
    return exponent * 0.6931471805599453 + 2.0 * z * total
