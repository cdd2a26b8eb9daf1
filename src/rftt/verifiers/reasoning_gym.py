"""The scorers of reasoning-gym's tasks as a verifier (arXiv 2505.24760), an optional dependency."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final

import attrs
from attrs import define, field

from rftt.interfaces import State, Verdict, Verifier
from rftt.verifiers.extraction import Extraction, boxed
from rftt.verifiers.sandbox.launch import Limits, SandboxError, environment, start_code
from rftt.verifiers.sandbox.lockdown import ISOLATION
from rftt.verifiers.sandbox.probe import require

_log = logging.getLogger(__name__)

_START_SECONDS: Final = 120.0
_GRACE_SECONDS: Final = 10.0
_MEMORY_BYTES: Final = 4 << 30


@define(eq=False)
class ReasoningGymVerifier(Verifier):
    """Score an answer as reasoning-gym does, from 0 to 1.

    The problem's metadata hold the task's ``entry``, as those of
    :func:`rftt.problems.reasoning_gym.reasoning_gym_problems` do. An answer that is missing, on which
    the scorer fails, or which takes it too long scores 0; abstention would be a way out. Without an
    entry the verifier abstains.

    Some scorers evaluate the answer as Python. So each answer is scored in a process of its own, which
    Linux keeps from network, files and other processes, as in
    :class:`~rftt.verifiers.execution.ExecutionVerifier`. Those whose answers are lists read them as
    literals here. Those that use sympy's ``parse_expr`` (``countdown``, ``puzzle24``,
    ``polynomial_multiplication``, ``simple_integration``, ``intermediate_integration``) can still be
    told their score by an answer that is a program made for it: do not reward a policy that might write
    one, or let an ``extraction`` refuse what is no formula.

    A copy and a fork have worker processes of their own; threads take turns.

    Attributes:
        extraction: finds the answer in the text of the last step; by default the last box.
        seconds: most wall time of one answer.
        isolation: as in :class:`~rftt.verifiers.execution.ExecutionVerifier`.

    Raises:
        ImportError: without reasoning-gym.
        SandboxError: naming the isolation that this machine does not enforce.
    """

    extraction: Extraction = boxed
    seconds: float = 5.0
    isolation: Sequence[str] = field(default=ISOLATION, converter=tuple[str, ...])
    _worker: _Worker | None = field(default=None, init=False, repr=False)
    _lock: Lock = field(factory=Lock, init=False, repr=False)
    _pid: int = field(factory=os.getpid, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ImportError("its scorers come from reasoning-gym: pip install 'rftt[reasoning-gym]'")
        require(self._limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.extraction, self.seconds, self.isolation)

    @property
    def _limits(self) -> Limits:
        return Limits(self.isolation, max(1, int(self.seconds) + 1), _MEMORY_BYTES)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [self._verdict(state) for state in states]

    def _verdict(self, state: State) -> Verdict:
        entry = state.problem.metadata.get("entry")
        answer = self.extraction(state.steps[-1].text) if state.steps else None
        if not isinstance(entry, Mapping) or "metadata" not in entry:
            return Verdict(None, answer, 'the problem has no "entry" of reasoning-gym in its metadata')
        if answer is None:
            return Verdict(0.0, reason="the last step has no answer")
        reply = self._asked({"entry": entry, "answer": answer})
        if reply["score"] is None:
            return Verdict(0.0, answer, reply["reason"])
        return Verdict(reply["score"], answer)

    def _asked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._pid != os.getpid():
            # A fork: the worker is the parent's, and the lock may be held by a thread that is not here.
            if self._worker is not None:
                self._worker.forget()
            self._pid, self._lock, self._worker = os.getpid(), Lock(), None
        with self._lock:
            limits = attrs.asdict(self._limits)
            request = {**request, "seconds": self.seconds, "limits": limits}
            try:
                return self._once(request)
            except (SandboxError, BrokenPipeError) as error:
                _log.warning("scoring an answer anew in another process: %s", error)
                return self._once(request)

    def _once(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if self._worker is None:
                self._worker = _Worker()
            return self._worker.ask(request)
        except BaseException:
            # Of a call that was interrupted, a reply may still come, and is nobody's.
            self._close()
            raise

    def close(self) -> None:
        """End the worker process; a later answer starts a new one."""
        if self._pid == os.getpid():
            with self._lock:
                self._close()

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def __del__(self) -> None:
        # A verifier that was refused when it was made has none.
        if getattr(self, "_worker", None) is not None and self._pid == os.getpid():
            self._close()


class _Worker:
    """The process that forks for each answer."""

    def __init__(self) -> None:
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-c", start_code("scorer")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env=environment(), cwd="/",
        )  # fmt: skip
        try:
            if self._line(_START_SECONDS) != b"ready\n":
                raise SandboxError("the process that scores answers did not start")
        except BaseException:
            self.end()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._number += 1
        line = json.dumps({"number": self._number, **request}).encode() + b"\n"
        view = memoryview(line)
        while view:
            view = view[self._process.stdin.write(view) :]
        reply: dict[str, Any] = json.loads(self._line(request["seconds"] + _GRACE_SECONDS))
        if reply.pop("number") != self._number:
            raise SandboxError("the process that scores answers replied to another question")
        return reply

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + seconds, b""
        while not said.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise SandboxError(f"the process that scores answers is silent for {seconds:g} s")
            if not (part := self._process.stdout.read(1 << 16)):
                raise SandboxError("the process that scores answers ended")
            said += part
        return said

    def forget(self) -> None:
        """Close this process's ends of the pipes, and leave the worker to its parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        # It is no child of this process, and is not waited for.
        self._process.returncode = 0

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
