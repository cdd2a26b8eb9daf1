"""The process that runs math-verify: a JSON line in, a JSON line out.

math-verify keeps time by signals, which fail in threads and do not interrupt long calls in C. Here
it keeps none: :class:`rftt.verifiers.math.MathVerifier` kills this process instead.
"""

from __future__ import annotations

import json
import sys

from math_verify import parse, verify


def compare(gold: str | None, answer: str) -> dict[str, object]:
    """The fields of a ``Comparison``."""
    parsed = parse(f"\\boxed{{{answer}}}", parsing_timeout=None, raise_on_error=True)
    canonical = str(parsed[0]) if parsed else answer
    if gold is None:
        return {"is_equal": None, "canonical": canonical}
    expected = parse(f"\\boxed{{{gold}}}", parsing_timeout=None, raise_on_error=True)
    is_equal = bool(verify(expected, parsed, timeout_seconds=None, raise_on_error=True))
    # All answers equal to the gold one share its text, however they are written.
    return {"is_equal": is_equal, "canonical": str(expected[0]) if is_equal else canonical}


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            reply = compare(question["gold"], question["answer"])
        except Exception as error:
            reply = {"is_equal": None, "canonical": question["answer"], "reason": repr(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
