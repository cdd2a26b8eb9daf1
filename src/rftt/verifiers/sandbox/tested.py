"""A locked-down process that runs unit tests of a solution which lives in another process.

Tests and the expected values in them are never where the solution could read or replace them, and a
test passes if it runs to its end here: ending the solution's process, printing, or returning an object
that says it is equal to everything, gains nothing.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from rftt.verifiers.sandbox.values import decode, encode


class CannotCrossError(TypeError):
    """A test passes something to the solution that has no form outside its own process."""


class _Link:
    """Sends requests to the solution's process and waits for their replies."""

    def __init__(self, requests: IO[str], replies: IO[str]) -> None:
        self._requests, self._replies = requests, replies
        self.names: list[str] = []

    def begin(self) -> None:
        """Wait until the solution has run; raise what it raised."""
        self.names = [str(name) for name in self._received()["value"]]

    def get(self, reference: int, name: str) -> Any:
        return self._value(self._asked({"get": reference, "name": name}))

    def call(self, reference: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        reply = self._asked(
            {"call": reference, "args": encode(args, _refer), "kwargs": encode(kwargs, _refer)}
        )
        # What the call did to its arguments is done to those that it was given.
        for mine, theirs in zip(args, decode(reply["args"], self._object), strict=True):
            if type(mine) is not type(theirs):
                continue
            if isinstance(mine, (list, bytearray)):
                mine[:] = theirs
            elif isinstance(mine, (dict, set)):
                mine.clear()
                mine.update(theirs)
        return self._value(reply)

    def _value(self, reply: dict[str, Any]) -> Any:
        return decode(reply["value"], self._object)

    def _object(self, reference: int) -> Remote:
        return Remote(self, reference)

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._received()

    def _received(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line.endswith("\n"):
            raise RuntimeError("the solution's process ended")
        reply: dict[str, Any] = json.loads(line)
        if "raise" in reply:
            kind, message = map(str, reply["raise"])
            raise _exception(kind, message)
        return reply


def _refer(value: Any) -> int:
    if isinstance(value, Remote):
        return int(object.__getattribute__(value, "_reference"))
    raise CannotCrossError(f"a {type(value).__name__} cannot be passed to the solution's process")


def _exception(kind: str, message: str) -> Exception:
    known = getattr(builtins, kind, None)
    if not (isinstance(known, type) and issubclass(known, Exception)):
        return RuntimeError(f"the solution raised {kind}: {message}")
    try:
        return known(message)
    except TypeError:
        return RuntimeError(f"the solution raised {kind}: {message}")


class Remote:
    """A function, class or object of the solution: its calls and attributes are the solution's.

    It has no truth value and is equal to nothing: only plain data can be compared.
    """

    def __init__(self, link: _Link, reference: int) -> None:
        self._link = link
        self._reference = reference

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call(self._reference, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.get(self._reference, name)

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._link.get(self._reference, "__iter__")()
        return iterator

    def __next__(self) -> Any:
        return self._link.get(self._reference, "__next__")()

    def __len__(self) -> int:
        try:
            return int(self._link.get(self._reference, "__len__")())
        except AttributeError as error:
            # Only this error tells Python that a length cannot be had, as of a generator.
            raise TypeError(str(error)) from None

    def __getitem__(self, key: Any) -> Any:
        return self._link.get(self._reference, "__getitem__")(key)

    def __eq__(self, other: object) -> bool:
        raise TypeError("an object of the solution's is not plain data, and cannot be compared")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("an object of the solution's is not plain data, and has no truth value")


def run_tests(
    tests: Sequence[str], requests: IO[str], replies: IO[str], report: Callable[[dict[str, Any]], None]
) -> None:
    """Run tests in order in one namespace, and report each: ``{"passed": ..., "reason": ...}``.

    Names that the solution defines stand for its own; built-in names are always Python's, so that a
    solution cannot replace what tests compare with.
    """
    link = _Link(requests, replies)
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        link.begin()
        for name in link.names:
            if not hasattr(builtins, name):
                namespace[name] = link.get(0, name)
    except Exception as error:
        for _ in tests:
            report({"passed": False, "reason": f"the solution did not run: {_said(error)}"})
        return
    for test in tests:
        try:
            exec(compile(test, "tests.py", "exec"), namespace)
        except CannotCrossError as error:
            report({"passed": None, "reason": str(error)})
        except BaseException as error:
            report({"passed": False, "reason": _said(error)})
        else:
            report({"passed": True, "reason": ""})


def _said(error: BaseException) -> str:
    text = str(error)[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
