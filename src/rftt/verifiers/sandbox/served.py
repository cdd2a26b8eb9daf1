"""A locked-down process that holds a solution, and calls its functions for another process."""

from __future__ import annotations

import json
from typing import IO, Any

from rftt.verifiers.sandbox.values import decode, encode


def serve(code: str, requests: IO[str], replies: IO[str]) -> None:
    """Run a solution, then reply to one request a line until there are no more.

    A request is ``{"get": reference, "name": ...}`` or ``{"call": reference, "args": ..., "kwargs":
    ...}``; a reply is ``{"value": ...}``, with ``"args"`` as the call left them, or ``{"raise": [type,
    message]}``. Reference 0 is the solution itself. The first reply has the names that it defines.
    """
    namespace: dict[str, Any] = {"__name__": "solution"}
    objects: list[Any] = [namespace]

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        if "get" in request:
            owner, name = objects[request["get"]], request["name"]
            value = owner[name] if owner is namespace else getattr(owner, name)
            return {"value": encode(value, refer)}
        args = decode(request["args"], objects.__getitem__)
        kwargs = decode(request["kwargs"], objects.__getitem__)
        value = objects[request["call"]](*args, **kwargs)
        return {"value": encode(value, refer), "args": encode(args, refer)}

    try:
        exec(compile(code, "solution.py", "exec"), namespace)
        first: dict[str, Any] = {"value": [name for name in namespace if not name.startswith("_")]}
    except BaseException as error:
        first = _raised(error)
    _send(replies, first)
    for line in requests:
        try:
            answer = reply(json.loads(line))
        except BaseException as error:
            answer = _raised(error)
        _send(replies, answer)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)[:500]
    except Exception:
        message = ""
    # The nearest class of Python's own, for it is all that the other process knows.
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {"raise": [kinds[0], message]}


def _send(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()
