"""A verifier that runs the program in a solution: against tests, or for the answer that it prints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import attrs
from attrs import field, frozen, validators

from rftt.interfaces import State, Verdict, Verifier
from rftt.problems.problem import Problem
from rftt.verifiers.extraction import Extraction
from rftt.verifiers.sandbox.launch import Batch, Limits, Outcome
from rftt.verifiers.sandbox.lockdown import ISOLATION
from rftt.verifiers.sandbox.probe import require

_FENCE: Final = "```"
_LANGUAGES: Final = ("", "python", "python3", "py")


def fenced_code(text: str) -> str | None:
    """Return the content of the last fenced block of Python, ``None`` if none is complete."""
    found: str | None = None
    block: list[str] | None = None
    language = ""
    for line in text.split("\n"):
        fence = line.strip()
        if block is None:
            if fence.startswith(_FENCE):
                block, language = [], fence.removeprefix(_FENCE).strip().lower()
        elif fence == _FENCE:
            found = "\n".join(block) if language in _LANGUAGES else found
            block = None
        else:
            block.append(line)
    return found


def metadata_tests(problem: Problem) -> Any:
    """Return ``problem.metadata["tests"]``, ``None`` if there are none."""
    return problem.metadata.get("tests")


@frozen
class ExecutionVerifier(Verifier):
    """Run a solution's Python program in a locked-down process, and score what it does.

    What it is scored by depends on the problem's tests:

    - Assertions, as source or a list of sources. They run in one namespace in a process of their own,
      which calls the functions of the solution in its process: the solution sees arguments and never an
      expected value, and plain data comes back. So ending the process, printing, replacing ``assert`` or
      returning an object that is equal to everything passes no test. Names that tests use are the
      solution's functions, classes and plain values; a built-in name is always Python's; modules must be
      imported by the tests. Objects that are not plain data can be called and asked for attributes and
      items, not compared.
    - Inputs and outputs, as a list of ``{"input": ..., "output": ...}``: the program gets the one and
      must print the other, but for white space at the ends of lines. It sees no output.
    - None: the last line that it prints is its answer, and is marked against the gold answer. Without a
      gold answer the verifier abstains, and gives the answer all the same.

    The score is 1 if all tests pass, else 0. A program that is too slow, too large, or that fails scores
    0 too: abstention would be a way out. The verifier abstains where a test cannot be tried: where it
    passes a function to the solution.

    The processes have no network, read nothing but Python's library and packages, write nothing, start
    and see no other process, and inherit no environment. This is enforced by Linux itself, by Landlock,
    seccomp and resource limits, and is tried when a verifier is made. A process takes about 0.1 s.

    Attributes:
        extraction: finds the program in the text of the last step; default the last fenced block.
        tests: finds a problem's tests; default ``metadata["tests"]``.
        answers: compares printed answers, and those of votes; texts are compared by default.
        partial: whether the score is the share of tests that pass.
        cpu_seconds: most processor time of a process, in whole seconds.
        wall_seconds: most wall time of a solution's tests together. It is for programs that wait;
            programs that compute are ended by processor time, however busy the machine is.
        memory_bytes: most address space of a process.
        output_bytes: most bytes that a program may print.
        isolation: what the operating system must keep a program from, of
            :data:`~rftt.verifiers.sandbox.lockdown.ISOLATION`: ``"network"``, ``"files"``,
            ``"processes"``, ``"memory"``. Name fewer only on a machine that something else isolates.
        processes: most solutions that are run at once; default one for each processor.

    Raises:
        SandboxError: naming the isolation that this machine does not enforce.
        ValueError: from :meth:`judge`, naming the problem, if its tests have another form.
    """

    extraction: Extraction = fenced_code
    tests: Callable[[Problem], Any] = metadata_tests
    answers: Verifier | None = None
    partial: bool = False
    cpu_seconds: int = field(default=5, validator=validators.ge(1))
    wall_seconds: float = field(default=20.0, validator=validators.gt(0))
    memory_bytes: int = field(default=1 << 30, validator=validators.ge(1 << 28))
    output_bytes: int = field(default=1 << 20, validator=validators.ge(1))
    isolation: Sequence[str] = field(default=ISOLATION, converter=tuple[str, ...])
    processes: int | None = field(default=None, validator=validators.optional(validators.ge(1)))

    def __attrs_post_init__(self) -> None:
        require(self._limits)

    def __fingerprint__(self) -> dict[str, Any]:
        fields = (f.name for f in attrs.fields(type(self)) if f.name != "processes")
        return {name: getattr(self, name) for name in fields}

    @property
    def _limits(self) -> Limits:
        return Limits(self.isolation, self.cpu_seconds, self.memory_bytes, self.output_bytes)

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        if not states:
            return []
        batch = Batch(self._limits)
        pool = ThreadPoolExecutor(min(len(states), self.processes or os.cpu_count() or 1))
        try:
            return list(pool.map(partial(self._verdict, batch), states))
        except BaseException:
            batch.end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def equivalent(self, a: str, b: str) -> bool | None:
        if self.answers is not None:
            return self.answers.equivalent(a, b)
        return super().equivalent(a, b)

    def _verdict(self, batch: Batch, state: State) -> Verdict:
        problem = state.problem
        tests = self.tests(problem)
        code = self.extraction(state.steps[-1].text) if state.steps else None
        if code is None:
            has_gold = tests is not None or problem.answer is not None
            return Verdict(0.0 if has_gold else None, reason="the last step has no program")
        deadline = time.monotonic() + self.wall_seconds
        if tests is None:
            return self._marked(run_program(batch, code, "", deadline), problem.answer)
        if isinstance(tests, str):
            tests = [tests]
        if not isinstance(tests, Sequence) or not tests:
            raise ValueError(_malformed(problem, tests))
        if all(isinstance(test, str) for test in tests):
            return self._scored(code, run_assertions(batch, code, tests, deadline))
        if not all(isinstance(t, Mapping) and {*t} >= {"input", "output"} for t in tests):
            raise ValueError(_malformed(problem, tests))
        return self._scored(code, [_run_case(batch, code, test, deadline) for test in tests])

    def _marked(self, outcome: Outcome, gold: str | None) -> Verdict:
        lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
        answer = lines[-1] if lines and outcome.ended_well else None
        if gold is None:
            return Verdict(None, answer, outcome.reason or "the problem has no gold answer")
        if answer is None:
            return Verdict(0.0, None, outcome.reason or "the program printed nothing")
        is_equal = self.equivalent(gold, answer)
        return Verdict(None if is_equal is None else float(is_equal), answer)

    def _scored(self, code: str, results: Sequence[tuple[bool | None, str]]) -> Verdict:
        passed = sum(result is True for result, _ in results)
        said = f"{passed} of {len(results)} tests passed"
        if failed := next(
            (f"; the first that did not: {why}" for is_ok, why in results if not is_ok), ""
        ):
            said += failed
        if any(result is None for result, _ in results):
            return Verdict(None, code, said)
        share = passed / len(results)
        return Verdict(share if self.partial else float(share == 1.0), code, said)


def run_program(batch: Batch, code: str, text: str, deadline: float) -> Outcome:
    """Run a program with a text as its input."""
    with batch.start("program", code=code, input=text) as process:
        return process.wait(deadline)


def run_assertions(
    batch: Batch, code: str, tests: Sequence[str], deadline: float
) -> list[tuple[bool | None, str]]:
    """Run tests in one process that call a solution in another; return for each whether it passed, and
    why not."""
    their_requests, our_requests = os.pipe()
    our_replies, their_replies = os.pipe()
    pipes = {their_requests, our_requests, our_replies, their_replies}
    try:
        with (
            batch.start(
                "served", (their_requests, their_replies), code=code,
                requests=their_requests, replies=their_replies,
            ) as solution,
            batch.start(
                "tested", (our_requests, our_replies), tests=list(tests),
                requests=our_requests, replies=our_replies,
            ) as tested,
        ):  # fmt: skip
            # Only the two processes hold the pipes, so that each sees the other's end.
            while pipes:
                os.close(pipes.pop())
            outcome = tested.wait(deadline)
            cause = solution.wait(deadline=0.0)
    finally:
        while pipes:
            os.close(pipes.pop())
    results = [(report["passed"], str(report["reason"])) for report in outcome.reports]
    # Where the solution ended by itself, what comes after says only that it is gone.
    gone = f": {cause.reason}" if cause.in_time and cause.reason else ""
    results += [(False, outcome.reason or "the tests ended")] * (len(tests) - len(results))
    return [(is_ok, why if is_ok else why + gone) for is_ok, why in results]


def _run_case(
    batch: Batch, code: str, test: Mapping[str, Any], deadline: float
) -> tuple[bool | None, str]:
    outcome = run_program(batch, code, str(test["input"]), deadline)
    if not outcome.ended_well:
        return False, outcome.reason
    is_equal = _lines(outcome.output) == _lines(str(test["output"]))
    return is_equal, "" if is_equal else f"for the input {test['input']!r:.60} it printed another output"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _malformed(problem: Problem, tests: Any) -> str:
    return (
        f"problem {problem.id!r}: its tests are {tests!r:.100}; give Python source, a list of sources, "
        'or a list of {"input": ..., "output": ...}'
    )
