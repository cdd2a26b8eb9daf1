"""The process that is locked down: reads one job, locks itself down, and does it.

It is started by :mod:`rftt.verifiers.sandbox.launch` with a job on its standard input, the number of the
file that it reports to and that of the process that started it. The first line of the report says that
it is locked down, so that nothing of a model has run in a process that is not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

from rftt.verifiers.sandbox.lockdown import end_with_parent, lock_down
from rftt.verifiers.sandbox.served import serve
from rftt.verifiers.sandbox.tested import run_tests

LOCKED = "locked"


def main() -> None:
    """Run the job read from standard input, and report to the descriptor in the first argument."""
    end_with_parent(int(sys.argv[2]))
    job: dict[str, Any] = json.load(sys.stdin)
    report = os.fdopen(int(sys.argv[1]), "w", encoding="ascii")
    role = job["role"]
    if role == "program":
        _give_input(job["input"])
    else:
        requests, replies = job["requests"], job["replies"]
    lock_down(**job["limits"])
    report.write(f"{LOCKED}\n")
    report.flush()
    if role == "program":
        report.close()
        exec(compile(job["code"], "solution.py", "exec"), {"__name__": "__main__"})
    elif role == "served":
        report.close()
        serve(job["code"], os.fdopen(requests, "r"), os.fdopen(replies, "w"))
    else:

        def say(outcome: dict[str, Any]) -> None:
            report.write(json.dumps(outcome) + "\n")
            report.flush()

        run_tests(job["tests"], os.fdopen(requests, "w"), os.fdopen(replies, "r"), say)


def _give_input(text: str) -> None:
    """Make a text the standard input."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.flush()
        file.seek(0)
        os.dup2(file.fileno(), 0)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
