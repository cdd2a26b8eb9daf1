"""Workers: right verdicts in threads, forks and after interrupts; hostile answers within the limit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from rftt import MathVerifier, Problem, State, Step, Verdict
from rftt.verifiers.math.pool import pool

SECONDS = 20.0
STALLS = "\\sum_{k=1}^{99999} \\frac{\\sin(k!)}{k^k}"


def _pairs(count: int, seed: int) -> list[tuple[str, str, bool]]:
    """Pairs that a worker must compare, each with what is right."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        found.append((f"x + \\sqrt{{{a}}} + {seed}", f"\\sqrt{{{b}}} + {seed} + x", a == b))
    return found


def _wrong(verifier: MathVerifier, seed: int, count: int = 15) -> int:
    return sum(verifier.equivalent(a, b) is not right for a, b, right in _pairs(count, seed))


def _state(answer: str, gold: str) -> State:
    return State(
        Problem("p", "?", gold), (Step("output", f"\\boxed{{{answer}}}", (), (), (), terminal=True),)
    )


@pytest.fixture
def verifier() -> MathVerifier:
    one = MathVerifier(SECONDS)
    assert one.equivalent("2x", "x+x") is True, "which starts the process that workers are forked from"
    return one


def test_threads_share_a_verifier(verifier: MathVerifier) -> None:
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda seed: _wrong(verifier, seed), range(6))) == [0] * 6


def test_threads_start_the_first_worker_together() -> None:
    pool().close()
    verifier = MathVerifier(SECONDS)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda seed: _wrong(verifier, seed, 3), range(4))) == [0] * 4


def test_forks_and_their_parent_judge_at_the_same_time(verifier: MathVerifier) -> None:
    children = []
    for seed in range(3):
        child = os.fork()
        if child == 0:
            status = 99
            try:
                status = _wrong(verifier, seed)
            finally:
                os._exit(status)
        children.append(child)
    assert _wrong(verifier, 3) == 0
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 3
    assert _wrong(verifier, 4) == 0


def test_a_fork_while_threads_judge(verifier: MathVerifier) -> None:
    done = threading.Event()
    wrong: list[int] = []

    def work() -> None:
        seed = 100
        while not done.is_set():
            wrong.append(_wrong(verifier, seed := seed + 1, 3))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with multiprocessing.get_context("fork").Pool(2) as processes:
            results = processes.starmap_async(_wrong, [(verifier, seed, 5) for seed in range(4)])
            assert results.get(timeout=60) == [0] * 4
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert sum(wrong) == 0


def test_a_new_process_judges_with_a_pickled_copy(verifier: MathVerifier) -> None:
    script = (
        "import pickle, sys; v = pickle.loads(sys.stdin.buffer.read());"
        "print(v.equivalent('2x', 'x+x'), v.equivalent('2x', '3x'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(verifier),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.split() == [b"True", b"False"]


def _judge_forever(pairs: list[tuple[str, str, bool]]) -> None:
    while True:
        MathVerifier(SECONDS).judge([_state(a, b) for a, b, _ in pairs])


@pytest.mark.parametrize("delay", [0.001, 0.004, 0.02, 0.1])
def test_after_an_interrupt_every_verdict_belongs_to_its_question(
    verifier: MathVerifier, delay: float
) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for seed in range(4):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(KeyboardInterrupt):
                _judge_forever(_pairs(8, 1000 + seed))
            assert _wrong(verifier, 2000 + seed, 6) == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_verdict_does_not_depend_on_a_time_out_beside_it(verifier: MathVerifier) -> None:
    verifier.seconds = 1.0
    pairs = _pairs(6, 7)
    states = [_state(a, b) for a, b, _ in pairs]
    start = time.monotonic()
    verdicts = verifier.judge([*states[:3], _state(STALLS, "5"), *states[3:]])
    assert time.monotonic() - start < 3
    assert [verdict.score for verdict in verdicts[:3] + verdicts[4:]] == [
        float(right) for *_, right in pairs
    ]
    assert verdicts[3].score is None
    assert verdicts[3].reason == "no verdict within 1 s"


def test_the_answer_after_a_time_out_does_not_wait_for_a_new_worker(verifier: MathVerifier) -> None:
    verifier.seconds = 0.3
    assert verifier.equivalent(STALLS, "5") is None
    verifier.seconds = SECONDS
    start = time.monotonic()
    assert verifier.equivalent("3x", "x+2x") is True
    assert time.monotonic() - start < 0.5, "importing math-verify takes as long"


def test_a_time_out_is_not_remembered() -> None:
    verifier = MathVerifier(seconds=1e-6)
    assert verifier.equivalent("2x", "x+x") is None
    verifier.seconds = SECONDS
    assert verifier.equivalent("2x", "x+x") is True


def test_dead_workers_are_replaced(verifier: MathVerifier) -> None:
    server = pool()._server
    assert server is not None
    children = _children(server.pid)
    assert children
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert _wrong(verifier, 11, 3) == 0
    server.kill()
    pairs = _pairs(6, 12)
    verdicts = MathVerifier(SECONDS, workers=3).judge([_state(a, b) for a, b, _ in pairs])
    assert [verdict.score for verdict in verdicts] == [float(right) for *_, right in pairs]
    assert pool()._server is not server, "the process that they are forked from too"


def test_a_worker_that_dies_of_the_answer_is_no_time_out() -> None:
    pool().close()
    verifier = MathVerifier(SECONDS)
    assert verifier.equivalent("2x", "x+x") is True
    states = [_state(STALLS, "5")]
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.extend(verifier.judge(states)))
    server = pool()._server
    assert server is not None
    thread.start()
    deadline = time.monotonic() + 10
    while thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.2)
        for child in _children(server.pid):
            os.kill(child, signal.SIGKILL)
    thread.join()
    (verdict,) = verdicts
    assert verdict.score is None
    assert "ended: it was killed" in verdict.reason


def _children(parent: int) -> list[int]:
    """Return the running children of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def test_the_workers_end_with_their_parent_and_import_nothing_from_its_folder(tmp_path: Path) -> None:
    for name in ("math_verify", "sympy", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current folder')\n")
    script = (
        "import sys; sys.path.remove('')\n"
        "import os, signal\n"
        "from rftt import MathVerifier\n"
        "from rftt.verifiers.math.pool import pool\n"
        "assert MathVerifier(20).equivalent('2x', 'x+x') is True\n"
        "print(pool()._server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    deadline = time.monotonic() + 5
    while Path(f"/proc/{int(run.stdout)}").exists():
        assert time.monotonic() < deadline, "the server outlives its parent"
        time.sleep(0.05)


def _hostile(rng: random.Random) -> str:
    n = rng.randint(2, 99)
    kinds = [
        f"{n}^{{{n}^{{{n}^{{{n}}}}}}}", f"({n}!)!", f"{n}{n}{n}{n}!", f"10^{{10^{{{n}}}}}",
        f"\\binom{{{n}^{{{n}}}}}{{{n}{n}}}", "(" * n + str(n), "(" * n + "1" + ")" * n, "\\frac{" * n,
        "{" * n, "\\sqrt{" * n + "}" * n, "\\boxed{" * n, "\\" * n, "\x00\ud800" * n, f"{n}\\%" * n,
        f"\\sum_{{k=1}}^{{10^{{{n}}}}} \\frac{{1}}{{k^{{{n}}}+\\sin k}}",
        f"\\prod_{{k=1}}^{{{n}^{{9}}}} k^k", f"\\int_0^{{{n}}} x^{{x^x}} \\sin(e^x) dx",
        f"\\lim_{{x \\to 0}} x^{{x^{{{n}}}}}", f"(x+y+z+w+1)^{{{n}{n}}}",
        "+".join(f"\\sqrt{{{p}}}" for p in range(2, 40)), f"x^{{{n}}} + x^{{{n + 1}}} = \\sin x",
        "1" * 1900, "9" * 30 + "!", "1,2," * 400, "a" * 1900, f"{n}_{n}" * n, f"0.{'4' * 1900}",
        f"\\begin{{pmatrix}} {n}^{{{n}^{{{n}}}}} & 1 \\\\ 0 & 1 \\end{{pmatrix}}^{{{n}{n}}}",
        f"\\sin(\\cos(\\tan({n}^{{{n}^{{9}}}})))", f"\\log_{{{n}}}({n}^{{{n}^{{{n}}}}})",
    ]  # fmt: skip
    return rng.choice(kinds)


def _bombard(count: int, seconds: float, seed: int) -> None:
    """Ask hostile answers one by one, then of a pool of threads."""
    rng = random.Random(seed)
    verifier = MathVerifier(seconds)
    verifier.equivalent("2x", "x+x")
    golds = ["5", "x+1", "(1, 2)", "\\frac{1}{3}", "\\text{north}", "\\sqrt{2}"]
    states = [_state(_hostile(rng), rng.choice(golds)) for _ in range(count)]

    def judged(state: State) -> tuple[float, float | None, State]:
        start = time.monotonic()
        (verdict,) = verifier.judge([state])
        return time.monotonic() - start, verdict.score, state

    alone = [judged(state) for state in states]
    with ThreadPool(4) as threads:
        together = threads.map(judged, states)
    for elapsed, score, state in alone + together:
        assert elapsed < seconds + 1, state
        assert score != 1.0, state
    assert verifier.equivalent("3x", "x+2x") is True


def test_hostile_answers_are_answered_within_the_limit() -> None:
    _bombard(30, 0.4, seed=1)


@pytest.mark.slow
def test_500_hostile_answers_are_answered_within_the_limit() -> None:
    _bombard(500, 1.0, seed=2)
