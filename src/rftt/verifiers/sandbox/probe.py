"""Tries whether this machine keeps code from what it is to be kept from."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from typing import Final

from rftt.verifiers.sandbox.launch import Limits, Process, SandboxError
from rftt.verifiers.sandbox.lockdown import ISOLATION

_PROBE: Final = """
import json, os, socket, subprocess, sys
def tried(attempt):
    try: attempt()
    except (OSError, MemoryError): return False
    return True
secret, memory = json.loads(sys.stdin.read())
print(json.dumps({
    "network": any(tried(lambda: socket.socket(*kind)) for kind in (
        (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET6, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM))),
    "files": tried(lambda: open(secret).close()) or tried(lambda: open(secret, "a").close()),
    "processes": tried(lambda: os.fork() or os._exit(0)) or tried(lambda: os.kill(os.getppid(), 0)),
    "memory": tried(lambda: bytearray(memory)),
}))
"""
"""Tries each thing that is to be kept from it."""
_PROBE_SECONDS: Final = 20.0


@functools.lru_cache(maxsize=16)
def require(limits: Limits) -> None:
    """Try whether this machine keeps code from all that it is to be kept from.

    Raises:
        SandboxError: naming what it cannot enforce.
        ValueError: if a kind of isolation does not exist.
    """
    if unknown := sorted(set(limits.isolation) - set(ISOLATION)):
        raise ValueError(
            f"isolation: there is no kind {unknown[0]!r}; there are: {', '.join(ISOLATION)}"
        )
    kinds = ", ".join(limits.isolation)
    advice = (
        "it needs Linux 5.13 with Landlock, libseccomp, and pip install 'rftt[execution]'. Only where "
        "something else isolates this machine, name fewer kinds of isolation"
    )
    if sys.platform != "linux":
        raise SandboxError(f"{kinds} cannot be enforced on {sys.platform}: {advice}")
    with tempfile.NamedTemporaryFile() as secret:
        asked = json.dumps([secret.name, limits.memory_bytes])
        try:
            with Process("program", limits, code=_PROBE, input=asked) as process:
                outcome = process.wait(time.monotonic() + _PROBE_SECONDS)
        except SandboxError as error:
            raise SandboxError(f"{kinds} cannot be enforced: {error}; {advice}") from None
    if not outcome.ended_well:
        raise SandboxError(f"a trial of the sandbox failed: {outcome.reason}")
    possible = json.loads(outcome.output)
    if open_to := [kind for kind in limits.isolation if possible[kind]]:
        raise SandboxError(f"{', '.join(open_to)}: not enforced on this machine; {advice}")
