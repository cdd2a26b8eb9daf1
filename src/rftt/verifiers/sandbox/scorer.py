"""The process that scores answers to reasoning-gym's tasks, each in a locked-down fork of its own.

Some of its scorers evaluate what a model wrote as Python, by ``eval`` or by sympy's ``parse_expr``.
Those that mean a literal get one here; the others can at least reach nothing, and leave nothing behind.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import logging
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from rftt.verifiers.sandbox.lockdown import lock_down

_LITERALS: Final = (
    "algorithmic.binary_matrix", "algorithmic.spiral_matrix", "algorithmic.string_insertion",
    "games.n_queens",
)  # fmt: skip
"""Modules of reasoning-gym whose scorers evaluate an answer that ought to be a list."""


@functools.cache
def _scorer(dataset: str) -> Callable[[str, Mapping[str, Any]], float]:
    from reasoning_gym import get_score_answer_fn

    score: Callable[[str, Mapping[str, Any]], float] = get_score_answer_fn(dataset)
    return score


def _score(request: Mapping[str, Any]) -> dict[str, Any]:
    entry = request["entry"]
    try:
        score = float(_scorer(entry["metadata"]["source_dataset"])(request["answer"], entry))
    except Exception as error:
        return {"score": None, "reason": f"the scorer failed: {error!r:.200}"}
    if not math.isfinite(score):
        return {"score": None, "reason": f"the scorer gave {score}"}
    return {"score": score}


def _in_fork(request: Mapping[str, Any]) -> dict[str, Any]:
    """Score in a fork, and end it when its time is up."""
    # What a scorer reads when it is made must be read before the fork is locked down.
    try:
        _scorer(request["entry"]["metadata"]["source_dataset"])
    except Exception as error:
        return {"score": None, "reason": f"there is no scorer: {error!r:.200}"}
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _as_child(request, theirs)
    os.close(theirs)
    try:
        said = _received(ours, time.monotonic() + request["seconds"])
    finally:
        os.close(ours)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not said.endswith(b"\n"):
        return {"score": None, "reason": "the scorer did not end in time, or was killed"}
    reply: dict[str, Any] = json.loads(said)
    return reply


def _as_child(request: Mapping[str, Any], reply: int) -> None:
    try:
        lock_down(**request["limits"])
        said = _score(request)
    except BaseException as error:
        said = {"score": None, "reason": f"{error!r:.200}"}
    os.write(reply, json.dumps(said).encode() + b"\n")
    os._exit(0)


def _received(pipe: int, deadline: float) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        left = max(0.0, deadline - time.monotonic())
        if not select.select([pipe], [], [], left)[0] or not (part := os.read(pipe, 1 << 16)):
            break
        said += part
    return said


def main() -> None:
    """Score requests from standard input, and write a reply for each to standard output."""
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w")
    # What a library prints is no reply.
    os.dup2(2, 1)
    for name in _LITERALS:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval
    import pyseccomp  # noqa: F401

    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps({"number": request["number"], **_in_fork(request)}) + "\n")
        replies.flush()
