"""Canonical JSON (RFC 8785, JSON Canonicalization Scheme) and digests over it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

MAX_INTEGER = 2**53 - 1  # RFC 8785 numbers are IEEE 754 doubles: a larger integer would not survive

_encode_string = json.JSONEncoder(ensure_ascii=False).encode


def canonical_json(value: Any) -> str:
    """The canonical text of a JSON value: members sorted by UTF-16 code units, no space, numbers as in ECMAScript.

    Raises:
        ValueError: not a JSON value (NaN, infinity, an integer beyond 2**53 − 1, a key that is no string, a lone
            surrogate).
    """
    parts: list[str] = []
    _write(value, parts)
    return "".join(parts)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON in UTF-8, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sort_key(name: str) -> bytes:
    """Orders strings by UTF-16 code units (RFC 8785, section 3.2.3)."""
    return name.encode("utf-16-be")


def canonical_string(value: str) -> str:
    """A string with its quotes and escapes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!r} holds a lone surrogate, which is no Unicode text") from error
    return _encode_string(value)


def canonical_number(value: float) -> str:
    """A number as ECMAScript's Number::toString writes it (ECMA-262, section 6.1.6.1.20)."""
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"the integer {value} is beyond 2**53 - 1 and has no exact JSON form")
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    if value == 0.0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr gives the shortest digits that read back, as ECMAScript asks for; only their layout differs.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _layout(digits, point)


def _layout(digits: str, point: int) -> str:
    """0.DIGITS × 10**point in ECMAScript's form."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    power = point - 1
    head = digits[0] + (f".{digits[1:]}" if count > 1 else "")
    return f"{head}e{'+' if power > 0 else '-'}{abs(power)}"


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(canonical_string(value))
    elif value is None:
        parts.append("null")
    elif value is True:
        parts.append("true")
    elif value is False:
        parts.append("false")
    elif isinstance(value, int | float):
        parts.append(canonical_number(value))
    elif isinstance(value, dict):
        _write_object(value, parts)
    elif isinstance(value, list | tuple):
        parts.append("[")
        for i, item in enumerate(value):
            if i:
                parts.append(",")
            _write(item, parts)
        parts.append("]")
    else:
        raise ValueError(f"a {type(value).__name__} is no JSON value")


def _write_object(value: dict[Any, Any], parts: list[str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is not a string")
    parts.append("{")
    for i, key in enumerate(sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))):
        if i:
            parts.append(",")
        parts.append(canonical_string(key))
        parts.append(":")
        _write(value[key], parts)
    parts.append("}")
