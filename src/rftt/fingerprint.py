"""Settings, parts and weights as data that can be compared from one process to another."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

import attrs

_SAMPLED_WEIGHTS: Final = 64
"""Numbers of each tensor that are compared; an optimizer step changes nearly all."""


class _Nothing:
    """What stands for a part that only one of two fingerprints has."""

    def __repr__(self) -> str:
        return "missing"


_NOTHING: Final = _Nothing()


def fingerprint(value: Any) -> Any:
    """Describe a value as JSON-able data that is equal in every process for equal values.

    A class with a method ``__fingerprint__``, which returns a mapping, describes itself. Others are
    described by their attributes, private ones too; functions and classes by their names; partials,
    bound methods and callable objects by their parts; tensors and modules by their shapes and a sample
    of their numbers.

    Raises:
        ValueError: naming what cannot be described, and what to do: a lambda, a local function, an
            object without attributes.
    """
    return _describe(value, "", ())


def _describe(value: Any, where: str, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (Path, bytes)):
        return str(value)
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return _described_by_name(value, where)
    if id(value) in above:
        raise ValueError(f"{where or 'the value'} holds itself: give its class a __fingerprint__ method")

    def part(item: Any, name: str) -> Any:
        return _describe(item, f"{where}.{name}" if where else name, (*above, id(value)))

    if isinstance(value, MethodType):
        if value.__name__ == "<lambda>":
            part(value.__func__, "__func__")
        return {"method": value.__name__, "of": part(value.__self__, "__self__")}
    if isinstance(value, functools.partial):
        arguments = [part(argument, f"args[{i}]") for i, argument in enumerate(value.args)]
        keywords = {name: part(argument, name) for name, argument in value.keywords.items()}
        return {"partial": part(value.func, "func"), "args": arguments, "keywords": keywords}
    if (own := getattr(type(value), "__fingerprint__", None)) is not None:
        return {"class": _name(type(value))} | {name: part(i, name) for name, i in own(value).items()}
    if isinstance(value, Mapping):
        return {str(key): part(item, f"[{key!r}]") for key, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((part(item, "{}") for item in value), key=repr)
    if isinstance(value, Sequence):
        return [part(item, f"[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Random):
        parts: Mapping[str, Any] = {"state": value.getstate()}
    elif hasattr(value, "named_parameters"):
        parts = dict(value.named_parameters())
    elif hasattr(value, "shape") and hasattr(value, "reshape"):
        return _described_by_sample(value)
    elif attrs.has(type(value)):
        fields = {f.name: f.init for f in attrs.fields(type(value))}
        # A subclass may keep more than fields.
        more = {name: item for name, item in _attributes(value).items() if name not in fields}
        parts = {name: getattr(value, name) for name, is_setting in fields.items() if is_setting} | more
    elif hasattr(value, "__dict__"):
        parts = _attributes(value)
    elif type(value).__module__ == "torch":
        return repr(value)
    else:
        raise ValueError(
            f"{where or 'the value'} is a {_name(type(value))}, which cannot be compared with that of "
            "another process: give the class that holds it a __fingerprint__ method that returns a "
            "mapping of what matters"
        )
    return {"class": _name(type(value))} | {name: part(item, name) for name, item in parts.items()}


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes, but for cached properties: they are there once they were read."""
    return {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not isinstance(getattr(type(value), name, None), functools.cached_property)
    }


def _name(kind: type | FunctionType | BuiltinFunctionType) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _described_by_name(value: type | FunctionType | BuiltinFunctionType, where: str) -> str:
    if "<" in value.__qualname__ and not isinstance(value, type):
        what = "a lambda" if "<lambda>" in value.__qualname__ else "a local function"
        raise ValueError(
            f"{where or 'the value'} is {what}, {_name(value)}, and two different ones cannot be told "
            "apart by name: write it as a function of a module, a functools.partial or a callable class"
        )
    return _name(value)


def _described_by_sample(tensor: Any) -> dict[str, Any]:
    """Shape, type and a digest of evenly spaced numbers of a tensor or an array."""
    flat = tensor.reshape(-1)
    stride = max(1, len(flat) // _SAMPLED_WEIGHTS)
    numbers = flat[::stride].tolist()
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).hexdigest()
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "sample": digest}


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """Name the first place at which two fingerprints differ, with both values; ``None`` if they are
    equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        names = dict.fromkeys([*a, *b])
        parts = [
            (f"{where}.{name}" if where else name, a.get(name, _NOTHING), b.get(name, _NOTHING))
            for name in names
        ]
    elif isinstance(a, list) and isinstance(b, list):
        pairs = enumerate(zip_longest(a, b, fillvalue=_NOTHING))
        parts = [(f"{where}[{place}]", held, other) for place, (held, other) in pairs]
    else:
        return None if a == b else f"{where or 'value'} was {a!r} and is {b!r}"
    found = (difference(held, other, place) for place, held, other in parts)
    return next((text for text in found if text is not None), None)
