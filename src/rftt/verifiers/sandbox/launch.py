"""Starts locked-down processes, waits for them within a time limit, and reads what they left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import attrs
from attrs import field, frozen

from rftt.verifiers.sandbox.lockdown import ISOLATION

_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # The order of a set decides no verdict.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8:backslashreplace",
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Nothing of the parent's environment, which may hold secrets, is passed on."""
_START: Final = """
import sys, types
for name, path in {packages!r}:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from rftt.verifiers.sandbox.{module} import main
main()
"""


def start_code(module: str) -> str:
    """Return Python that runs ``main`` of a module of this package, without what the packages above it
    import, which would take half of the time."""
    here = Path(__file__).parent
    names = ("rftt.verifiers.sandbox", "rftt.verifiers", "rftt")
    packages = list(zip(names, map(str, (here, *here.parents)), strict=False))
    return _START.format(packages=packages, module=module)


def environment() -> dict[str, str]:
    """Return the environment of a process that may run what a model wrote."""
    return dict(_ENVIRONMENT)


@frozen
class Limits:
    """What a process may use.

    Attributes:
        isolation: of :data:`~rftt.verifiers.sandbox.lockdown.ISOLATION`, what the operating system must
            keep the code from.
        cpu_seconds: most processor time; whole seconds count.
        memory_bytes: most address space.
        output_bytes: most bytes in any file, its output too.
    """

    isolation: tuple[str, ...] = field(default=ISOLATION, converter=tuple[str, ...])
    cpu_seconds: int = 5
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20


class SandboxError(RuntimeError):
    """The sandbox, not what ran in it, failed."""


@frozen
class Outcome:
    """How a process ended.

    Attributes:
        output: what it wrote to its standard output, as far as it was allowed to.
        error: the last line of its standard error.
        reports: what it reported, where it is trusted to.
        exit_code: as of :class:`subprocess.Popen`.
        in_time: whether it ended by itself.
    """

    output: str
    error: str
    reports: Sequence[Mapping[str, Any]]
    exit_code: int
    in_time: bool

    @property
    def ended_well(self) -> bool:
        return self.in_time and self.exit_code == 0

    @property
    def reason(self) -> str:
        """Say why it did not end well; empty if it did."""
        if not self.in_time:
            return "it did not end in time"
        if self.exit_code in (-signal.SIGXCPU, -signal.SIGKILL):
            return "it used more processor time than it may, or was killed"
        return "" if self.exit_code == 0 else (self.error or f"it ended with status {self.exit_code}")


class Process:
    """A locked-down process with files for what it reads and writes. Closing it ends it.

    Args:
        role: what it does, as :mod:`rftt.verifiers.sandbox.child` has it.
        limits: what it may use.
        inherited: file descriptors that it is given.
        job: what the role needs, as JSON.
    """

    def __init__(self, role: str, limits: Limits, inherited: Sequence[int] = (), **job: Any) -> None:
        with contextlib.ExitStack() as files:
            given, self._output, self._error, self._report = (
                files.enter_context(tempfile.TemporaryFile()) for _ in range(4)
            )
            given.write(json.dumps({"role": role, "limits": attrs.asdict(limits), **job}).encode())
            given.seek(0)
            report = self._report.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-c", start_code("child"), str(report), str(os.getpid())],
                stdin=given, stdout=self._output, stderr=self._error, pass_fds=(report, *inherited),
                env=environment(), cwd="/", start_new_session=True,
            )  # fmt: skip
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def kill(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it and forget what it wrote."""
        self.kill()
        self._files.close()

    def wait(self, deadline: float) -> Outcome:
        """Wait until it ends or the time on the monotonic clock has come, then end it.

        Raises:
            SandboxError: if it could not lock itself down, so that it ran nothing.
        """
        in_time = _ends_by(self._process, deadline)
        self.kill()
        error = _read(self._error).strip().rpartition("\n")[2][:500]
        locked, *reports = _read(self._report).splitlines() or [""]
        if not locked and in_time:
            raise SandboxError(f"a process could not be locked down: {error}")
        return Outcome(
            output=_read(self._output),
            error=error,
            reports=[json.loads(line) for line in reports],
            exit_code=self._process.returncode,
            in_time=in_time,
        )


class Batch:
    """Processes of one call, which end together when it is interrupted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._started: list[Process] = []
        self._is_over = False

    def start(self, role: str, inherited: Sequence[int] = (), **job: Any) -> Process:
        """Start a process; one that comes after the end is ended at once."""
        process = Process(role, self._limits, inherited, **job)
        with self._lock:
            self._started.append(process)
            if self._is_over:
                process.kill()
        return process

    def end(self) -> None:
        """End all processes."""
        with self._lock:
            self._is_over = True
            for process in self._started:
                process.kill()


def _ends_by(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        left = max(0.0, deadline - time.monotonic())
        return bool(select.select([handle], [], [], left)[0])
    finally:
        os.close(handle)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "backslashreplace")
