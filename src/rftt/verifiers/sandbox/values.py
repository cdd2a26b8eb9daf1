"""Values that go from one process to another as JSON: plain data, and references to all else.

Nothing is unpickled, and nothing that is decoded has a method of its author's: a value is equal to what
it is, not to what its class says.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

_SEQUENCES: Final[dict[str, type[Any]]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset,
}  # fmt: skip
_TEXTS: Final[dict[str, type[Any]]] = {"Fraction": Fraction, "Decimal": Decimal}


def encode(value: Any, refer: Callable[[Any], int]) -> Any:
    """Return a value as JSON.

    Instances of subclasses of built-in types, such as a ``Counter``, become plain ones.

    Args:
        value: what is sent.
        refer: gives a number for what is not plain data, or raises.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return ["int", hex(int(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", float.hex(value.real), float.hex(value.imag)]
    if isinstance(value, (bytes, bytearray)):
        return ["bytearray" if isinstance(value, bytearray) else "bytes", bytes(value).hex()]
    for name, kind in _TEXTS.items():
        if isinstance(value, kind):
            return [name, str(value)]
    if isinstance(value, dict):
        pairs = [[encode(k, refer), encode(v, refer)] for k, v in dict.items(value)]
        return ["dict", pairs]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(item, refer) for item in value]]
    return ["reference", refer(value)]


def decode(data: Any, resolve: Callable[[int], Any]) -> Any:
    """Return the value that JSON of :func:`encode` stands for.

    Raises:
        ValueError, TypeError, KeyError, IndexError: if it is not of that form.
    """
    if data is None or isinstance(data, (bool, str)):
        return data
    kind, *parts = data
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(item, resolve) for item in parts[0])
    if kind in _TEXTS:
        return _TEXTS[kind](str(parts[0]))
    if kind == "dict":
        return {decode(key, resolve): decode(value, resolve) for key, value in parts[0]}
    if kind == "int":
        return int(parts[0], 16)
    if kind == "float":
        return float.fromhex(parts[0])
    if kind == "complex":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if kind in ("bytes", "bytearray"):
        return {"bytes": bytes, "bytearray": bytearray}[kind](bytes.fromhex(parts[0]))
    if kind == "reference":
        return resolve(int(parts[0]))
    raise ValueError(f"there is no kind of value {kind!r:.30}")
