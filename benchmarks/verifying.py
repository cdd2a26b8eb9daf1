"""The rule verifier on five public sets: python benchmarks/verifying.py --data FOLDER

The folder holds gsm8k_test.jsonl, math500.jsonl, amc23.jsonl, aime24.jsonl and olympiadbench.jsonl, as
published. Three things are measured:

- ``judged_per_s`` of solutions with a boxed answer, half of them the row's own gold answer and half
  another row's, with one worker and an empty cache, beside ``verify(parse(gold), parse(solution))`` of
  math-verify in a loop. The two take turns; the best of each counts. The verifier's figure leaves out
  the start of its process, some half a second once a run, and that of math-verify its import.
- ``self_equal``: the share of gold answers that are right when a solution states them word for word, in
  the form of each extraction, and which are not.
- ``accepted``: for each row, ``--others`` other rows' answers that are not the same text; those that are
  called right. ``undecided`` are those on which the verifier abstains.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from machine import machine
from math_verify import parse, verify

from rftt import MathVerifier, Problem, State, Step
from rftt.verifiers.extraction import (
    Extraction,
    all_boxed,
    answer_is,
    answer_tags,
    boxed,
    gsm8k,
    last_number,
)

SETS = ("gsm8k_test", "math500", "amc23", "aime24", "olympiadbench")
TIMED = ("gsm8k_test", "math500")
FORMS: dict[str, tuple[Extraction, str]] = {
    "boxed": (boxed, "So the answer is $\\boxed{%s}$."),
    "all_boxed": (all_boxed, "So the answer is $\\boxed{%s}$."),
    "gsm8k": (gsm8k, "It is so.\n#### %s"),
    "answer_is": (answer_is, "It is so. The answer is $%s$."),
    "answer_tags": (answer_tags, "It is so. <answer>%s</answer>"),
    "last_number": (last_number, "It is 1 and then %s."),
}
Pair = tuple[str, str]


def main() -> None:
    arguments = _arguments()
    logging.disable(logging.WARNING)
    rng = random.Random(arguments.seed)
    golds = {name: read_golds(arguments.data, name) for name in SETS}
    MathVerifier().equivalent("x + 1", "1 + x")  # starts the process that workers are forked from
    result: dict[str, object] = {}
    for name in TIMED:
        pairs = [
            pair for gold in golds[name] for pair in ((gold, gold), (gold, rng.choice(golds[name])))
        ]
        result[name] = timed(pairs, arguments.turns)
        print(name, result[name], flush=True)
    own, others = {}, {}
    for name in SETS:
        own[name] = {form: self_equal(golds[name], form) for form in FORMS}
        others[name] = accepted(golds[name], rng, arguments.others)
        print(name, own[name], others[name], flush=True)
    summary = {
        "judged_per_s": result,
        "self_equal": own,
        "others": others,
        "seed": arguments.seed,
        "machine": {**machine(), "math-verify": version("math-verify"), "sympy": version("sympy")},
    }
    print(json.dumps(summary))


def read_golds(data: Path, name: str) -> list[str]:
    """Return a set's gold answers; several answers of a row are one list."""
    rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text().splitlines()]
    if name == "gsm8k_test":
        return [row["answer"].split("####")[1].strip() for row in rows]
    if name == "olympiadbench":
        return [", ".join(row["final_answer"]) for row in rows]
    return [str(row["answer"]) for row in rows]


def state(gold: str, text: str) -> State:
    return State(Problem("p", "?", gold), (Step("output", text, (), (), (), terminal=True),))


def timed(pairs: Sequence[Pair], turns: int) -> dict[str, float]:
    """Return judgements a second: the verifier's, and math-verify's in a loop."""
    states = [state(gold, f"\\boxed{{{answer}}}") for gold, answer in pairs]

    def loop() -> None:
        for gold, answer in pairs:
            verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}"))

    ours, theirs = [], []
    for _ in range(turns):
        ours.append(len(pairs) / _seconds(lambda: MathVerifier(workers=1).judge(states)))
        theirs.append(len(pairs) / _seconds(loop))
    best, loop_best = max(ours), max(theirs)
    return {
        "rftt": round(best, 1),
        "math_verify": round(loop_best, 1),
        "ratio": round(best / loop_best, 2),
    }


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def self_equal(golds: Sequence[str], form: str) -> dict[str, object]:
    """Return the share of gold answers that are right in a form, and those that are not."""
    extraction, text = FORMS[form]
    if form == "last_number":
        golds = [gold for gold in golds if last_number(gold) == gold]
    verdicts = MathVerifier(extraction=extraction).judge([state(gold, text % gold) for gold in golds])
    wrong = [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.score != 1.0]
    share = 1 - len(wrong) / len(golds) if golds else None
    return {"rows": len(golds), "share": share, "exceptions": wrong}


def accepted(golds: Sequence[str], rng: random.Random, count: int) -> dict[str, object]:
    """Return which of other rows' answers are called right, and on which the verifier abstains."""
    drawn = [(gold, other) for gold in golds for other in rng.sample(golds, min(count, len(golds)))]
    pairs = [(gold, other) for gold, other in drawn if gold != other]
    verdicts = MathVerifier().judge([state(gold, f"\\boxed{{{other}}}") for gold, other in pairs])
    judged = list(zip(pairs, verdicts, strict=True))
    return {
        "pairs": len(pairs),
        "accepted": sorted({pair for pair, verdict in judged if verdict.score == 1.0}),
        "undecided": sorted(
            {(*pair, verdict.reason) for pair, verdict in judged if verdict.score is None}
        ),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
