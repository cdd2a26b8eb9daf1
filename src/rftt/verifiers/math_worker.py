"""The process that runs math-verify: a JSON line in, a JSON line out.

math-verify keeps time by signals, which fail in threads and do not interrupt long calls in C. Here
it keeps none: :class:`rftt.verifiers.math.MathVerifier` kills this process instead.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from math_verify import parse, verify
from math_verify.grader import is_equation, take_first_relation, take_last_relation


def equal(a: str, b: str) -> bool:
    """Whether two answers are equal; the same whichever comes first.

    math-verify calls one of two answers the gold one, and takes the right side of an equation more
    readily in the other: ``2x + y = 5`` is right for a gold 5, but 5 is wrong for a gold ``2x + y = 5``.
    Where the two orders disagree, an equation equals its right side only if it is true as it stands, as
    in ``2 + 3 = 5``. (One whose left side is a name, as in ``AB = 5``, equals its right side in both.)
    """
    first, second = _parsed(a), _parsed(b)
    is_equal = _verified(first, second)
    if is_equal == _verified(second, first):
        return is_equal
    return all(_is_true(parsed[0]) for parsed in (first, second) if is_equation(parsed[0]))


def _parsed(answer: str) -> list[Any]:
    parsed: list[Any] = parse(f"\\boxed{{{answer}}}", parsing_timeout=None, raise_on_error=True)
    return parsed


def _verified(gold: Any, answer: Any) -> bool:
    # An inequality and the interval that it describes are equal in either order.
    return bool(
        verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
    )


def _is_true(equation: Any) -> bool:
    return _verified(take_last_relation(equation).rhs, take_first_relation(equation).lhs)


def main() -> None:
    # math-verify warns at each call that it keeps no time.
    logging.disable(logging.WARNING)
    print("ready", flush=True)
    for line in sys.stdin:
        a, b = json.loads(line)
        try:
            reply = {"is_equal": equal(a, b), "reason": ""}
        except Exception as error:
            reply = {"is_equal": None, "reason": f"math-verify failed: {error!r}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
