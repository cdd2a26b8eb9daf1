"""Programs are run and scored by what they do, reach nothing, and cannot say that they passed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from rftt import Problem, State, Verdict
from rftt.fingerprint import fingerprint
from rftt.testing import check_verifier
from rftt.testing.verifier.bench import alarm
from rftt.testing.verifier.cases import solution
from rftt.verifiers.execution import ExecutionVerifier, fenced_code
from rftt.verifiers.sandbox import launch
from rftt.verifiers.sandbox.launch import Limits, Process, SandboxError
from rftt.verifiers.sandbox.probe import require
from rftt.verifiers.sandbox.values import decode, encode

try:
    require(Limits())
except SandboxError as error:
    pytest.skip(f"no sandbox here: {error}", allow_module_level=True)

VERIFIER = ExecutionVerifier(cpu_seconds=1, wall_seconds=8.0)
ADDS = ["assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]"]


def _state(code: str, tests: Any = None, gold: str | None = None) -> State:
    metadata = {} if tests is None else {"tests": tests}
    return solution(Problem("p3", "?", gold, metadata), "so", f"Here:\n```python\n{code}\n```\n")


def _judge(
    code: str, tests: Any = None, gold: str | None = None, verifier: ExecutionVerifier = VERIFIER
) -> Verdict:
    (verdict,) = verifier.judge([_state(code, tests, gold)])
    return verdict


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("a\n```py\nx\n```\nb\n``` Python\ny\n\nz\n```", "y\n\nz"),
        ("```python\nx\n```\n```text\ny\n```", "x"),
        ("```python\nx\n```\n```python\ny", "x"),
        ("  ```python\n  x\n  ```", "  x"),
        ("```python\n```", ""),
        ("x = 1", None),
        ("```python\nx = 1", None),
        ("", None),
    ],
)
def test_the_program_is_the_last_complete_block_of_python(text: str, code: str | None) -> None:
    assert fenced_code(text) == code


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("def add(a, b): return a + b", ADDS),
        ("def add(a, b): return a + b", "\n".join(ADDS)),
        ("def f(x): x.sort()", "a = [3, 1]\nf(a)\nassert a == [1, 3]"),
        ("def f(d): d['k'] = {1}", "d = {'a': 1}\nassert f(d) is None\nassert d == {'a': 1, 'k': {1}}"),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aa') == {'a': 2}"),
        ("def f(n):\n  for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(): return 1.5, {2}, None, b'x', 1j, (), float('inf')",
         "assert f() == (1.5, {2}, None, b'x', 1j, (), float('inf'))"),
        ("from fractions import Fraction\ndef f(): return Fraction(1, 3)",
         "from fractions import Fraction\nassert f() * 3 == 1 and f() == Fraction(2, 6)"),
        ("class S:\n  def __init__(self, n): self.n = n\n  def go(self, k): self.n += k; return self.n",
         "s = S(n=1)\nassert s.go(2) == 3 and s.n == 3"),
        ("class S:\n  def make(self): return [self]\n  def one(self, other): return other is self",
         "s = S()\nassert s.make()[0].one(s)"),
        ("def f(x):\n  if x < 0: raise ValueError('negative')",
         "try:\n  f(-1)\n  raise SystemExit\nexcept ValueError as e:\n  assert str(e) == 'negative'"),
        ("import json\nclass E(KeyError): pass\ndef f(): raise E('k')",
         "try:\n  f()\n  assert False\nexcept KeyError:\n  pass"),
        ("LIMIT = 5\ndef f(): return LIMIT", "assert f() == LIMIT"),
        ("import numpy as np\ndef f(x): return np.mean(x)", "assert f([1, 2, 3]) == 2.0"),
        ("def f(x): return 10 ** x", "assert f(5000) == 10 ** 5000"),
        ("print('chatter')\ndef f(): print('more'); return 1", "print('tests')\nassert f() == 1"),
        ("import sys\nsys.setrecursionlimit(9000)\ndef f(n): return n and 1 + f(n - 1)",
         "assert f(3000) == 3000"),
        ("import threading\ndef f():\n  r = []\n  t = threading.Thread(target=lambda: r.append(1))\n"
         "  t.start(); t.join(); return r", "assert f() == [1]"),
        ("import asyncio\nasync def g(): return 1\ndef f(): return asyncio.run(g())", "assert f() == 1"),
    ],
)  # fmt: skip
def test_right_programs_pass(code: str, tests: Any) -> None:
    verdict = _judge(code, tests)
    assert verdict.reason.endswith(f"of {len(tests) if isinstance(tests, list) else 1} tests passed")
    assert verdict == Verdict(1.0, code, verdict.reason)


WRITES_TO_ALL = """
import os
def add(a, b):
    for fd in range(1, 64):
        try:
            os.write(fd, b'{what}' * 2)
        except OSError:
            pass
add(1, 2)
"""


@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b): return a - b",
        "x = 1",
        "def add(a, b: return 1",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def add(a, b): import os; os._exit(0)",
        "def add(a, b): raise SystemExit(0)",
        "def add(a, b): raise AssertionError",
        # What is equal to everything, and true.
        "class E:\n  def __eq__(s, o): return True\n  def __bool__(s): return True\n"
        "def add(a, b): return E()",
        "class E(int):\n  def __eq__(s, o): return True\ndef add(a, b): return E(7)",
        "class E(list):\n  def __eq__(s, o): return True\ndef add(a, b): return E()",
        # What tests are made of.
        "import builtins\nbuiltins.AssertionError = None\n__debug__ = False\ndef add(a, b): return 0",
        "import sys\ndef add(a, b):\n  f = sys._getframe()\n  while f: f.f_locals.clear(); f = f.f_back",
        "import sys\ndef add(a, b):\n  sys._getframe(1).f_globals['encode'] = lambda *a: True",
        # What the processes tell one another.
        WRITES_TO_ALL.format(what='locked\\n{"passed": true, "reason": ""}\\n'),
        WRITES_TO_ALL.format(what='{"value": true, "args": ["list", []]}\\n'),
        "print('locked')\nprint('{\"passed\": true, \"reason\": \"\"}')",
        "import atexit, os\natexit.register(os._exit, 0)",
        "import signal, os\ndef add(a, b): os.kill(os.getppid(), signal.SIGKILL)",
        "import os\ndef add(a, b): os.killpg(0, 9)",
        "def add(a, b):\n  a = [a]\n  for _ in range(5000): a = [a]\n  return a",
        "def add(a, b):\n  a = []; a.append(a); return a",
        "def add(a, b): return 'x' * 10 ** 8 * 3",
    ],
)  # fmt: skip
def test_wrong_programs_fail_whatever_they_say(code: str) -> None:
    assert _judge(code, ADDS).score == 0.0


def test_a_built_in_name_is_pythons() -> None:
    code = "def abs(x): return 0\ndef all(x): return True\ndef f(x): return 100"
    assert _judge(code, "assert abs(f(1) - 3) < 1e-6").score == 0.0
    assert _judge(code, "assert all(f(x) == x for x in [1])").score == 0.0


def test_partial_credit_is_the_share_of_tests() -> None:
    code, tests = (
        "def f(x): return abs(x)",
        ["assert f(1) == 1", "assert f(-1) == -1", "assert f(0) == 0"],
    )
    verdict = _judge(code, tests)
    assert verdict.score == 0.0
    assert verdict.reason == "2 of 3 tests passed; the first that did not: AssertionError"
    shares = evolve(VERIFIER, partial=True)
    assert _judge(code, tests, verifier=shares).score == pytest.approx(2 / 3)
    assert _judge(
        "import os\ndef f(x): return x if x > 0 else os._exit(0)", tests, None, shares
    ).score == (pytest.approx(1 / 3))


def test_a_test_that_passes_a_function_cannot_be_tried() -> None:
    verdict = _judge("def f(g, x): return g(x)", "assert f(lambda x: x + 1, 2) == 3")
    assert verdict.score is None
    assert "a function cannot be passed" in verdict.reason


CASES = [{"input": "3", "output": "6\n"}, {"input": "4\n", "output": "8"}]


@pytest.mark.parametrize(
    ("code", "tests", "score"),
    [
        ("print(int(input()) * 2)", CASES, 1.0),
        ("print(int(input()) * 2, ' ')\nprint()", CASES, 1.0),
        ("print(6)", CASES, 0.0),
        ("print(int(input()) * 2)\nraise SystemExit(1)", CASES, 0.0),
        ("import sys\nprint(sum(map(int, sys.stdin)))", [{"input": "3\n4", "output": "7"}], 1.0),
        ("import os\nprint(len(os.read(0, 100)))", [{"input": "abc", "output": "3"}], 1.0),
        ("print('\\u00e9' + input())", [{"input": "\u00fc", "output": "\u00e9\u00fc"}], 1.0),
        ("print(input(), '\\ud800')", [{"input": "\ud800", "output": "x"}], 0.0),
    ],
)
def test_programs_of_input_and_output(code: str, tests: Any, score: float) -> None:
    assert _judge(code, tests).score == score


def test_a_printed_answer_is_marked_against_the_gold_answer() -> None:
    code = "print('first')\nprint(6 * 7)\n\nprint()"
    assert _judge(code, gold="42") == Verdict(1.0, "42")
    assert _judge(code, gold="43") == Verdict(0.0, "42")
    assert _judge(code) == Verdict(None, "42", "the problem has no gold answer")
    assert _judge("x = 42", gold="42") == Verdict(0.0, None, "the program printed nothing")
    failed = _judge("print(42)\n1 / 0", gold="42")
    assert failed == Verdict(0.0, None, "ZeroDivisionError: division by zero")


def test_no_program_scores_0_where_something_was_asked_for() -> None:
    for problem in (Problem("p", "?", "42"), Problem("p", "?", metadata={"tests": ADDS})):
        states = [solution(problem, "no code"), State(problem)]
        assert [v.score for v in VERIFIER.judge(states)] == [0.0, 0.0]
    assert VERIFIER.judge([State(Problem("p", "?"))])[0].score is None


ESCAPES = {
    "reads a file": "open('/etc/passwd').read()",
    "reads this": f"open({__file__!r}).read()",
    "lists files": "import os; os.listdir('/')",
    "reads processes": "open('/proc/self/environ').read()",
    "writes a file": "open('/tmp/escaped', 'w')",
    "writes to a package": "import json; open(json.__file__, 'a')",
    "changes a mode": "import os; os.chmod('/tmp', 0o777)",
    "removes a file": "import os; os.unlink('/tmp/escaped')",
    "makes a folder": "import os; os.mkdir('/dev/shm/escaped')",
    "opens a socket": "import socket; socket.socket()",
    "opens a socket of files": "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "opens a pair for datagrams": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "looks up a name": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "starts a process": "import subprocess; subprocess.run(['/bin/true'])",
    "forks": "import os; os.fork()",
    "becomes another program": "import os; os.execv('/bin/true', ['true'])",
    "signals its parent": "import os; os.kill(os.getppid(), 0)",
    "lifts a limit": "import resource; resource.prlimit(0, resource.RLIMIT_CPU, (100, 100))",
    "takes memory": "bytearray(2 << 30)",
    "maps memory": "import mmap; mmap.mmap(-1, 2 << 30)",
    "calls the kernel": "import ctypes; n = ctypes.CDLL(None).unshare(0x10000000); assert n == 0",
    "watches a process": "import ctypes; n = ctypes.CDLL(None).ptrace(16, 1, 0, 0); assert n == 0",
    "reads the environment": "import os; os.environ['RFTT_SECRET']",
}


@pytest.mark.parametrize("how", ESCAPES)
def test_a_program_reaches_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFTT_SECRET", "s3cret")
    # The program says what happened, so that a failure for another reason is not taken for one.
    code = (
        f"try:\n  exec({ESCAPES[how]!r})\n"
        "except (OSError, MemoryError, KeyError, AssertionError, ValueError) as e: print('kept')\n"
        "else: print('escaped')"
    )
    assert _judge(code, gold="kept") == Verdict(1.0, "kept")


def test_a_program_that_takes_too_much_scores_0_in_time() -> None:
    start = time.monotonic()
    verifier = evolve(VERIFIER, wall_seconds=4.0, processes=8)
    codes = {
        "while True: pass": "processor time",
        "import time; time.sleep(1000)": "in time",
        "import signal, time\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except OSError: pass\ntime.sleep(1000)": "in time",
        "x = []\nwhile True: x.append('a' * 10 ** 7)": "MemoryError",
        "while True: print('x' * 1000)": "too large",
        "input()\nprint(1)": "EOF",
    }  # fmt: skip
    verdicts = verifier.judge([_state(code, gold="1") for code in codes])
    assert [v.score for v in verdicts] == [0.0] * len(codes)
    for verdict, words in zip(verdicts, codes.values(), strict=True):
        assert words in verdict.reason
    assert time.monotonic() - start < 10
    stuck = _judge("def add(a, b):\n  while True: pass", ADDS, verifier=verifier)
    assert stuck.score == 0.0
    assert "processor time" in stuck.reason


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()


def test_an_interrupt_ends_all_processes() -> None:
    states = [_state("import time; time.sleep(1000)", gold="1")] * 6
    before, start = _children(), time.monotonic()
    with pytest.raises(KeyboardInterrupt), alarm(0.7, KeyboardInterrupt):
        evolve(VERIFIER, processes=2).judge(states)
    assert time.monotonic() - start < 3
    assert _children() == before
    assert _judge("print(1)", gold="1").score == 1.0


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # One that has ended may still be in the table, as a zombie.
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_process_ends_with_the_one_that_started_it() -> None:
    program = (
        "import time\nfrom rftt.verifiers.sandbox.launch import Limits, Process\n"
        "p = Process('program', Limits(), code='import time; time.sleep(1000)', input='')\n"
        "time.sleep(1)\nprint(p._process.pid, flush=True)\ntime.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_more_run_at_once_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = [0], [0], threading.Lock()
    begin, end = Process.__init__, Process.close

    def count(change: int) -> None:
        with lock:
            running[0] += change
            most[0] = max(most[0], running[0])

    def started(self: Process, *args: Any, **job: Any) -> None:
        count(1)
        begin(self, *args, **job)

    def closed(self: Process) -> None:
        count(-1)
        end(self)

    monkeypatch.setattr(Process, "__init__", started)
    monkeypatch.setattr(Process, "close", closed)
    states = [_state(f"import time; time.sleep(0.1); print({n})", gold=str(n)) for n in range(8)]
    assert [v.answer for v in evolve(VERIFIER, processes=3).judge(states)] == list("01234567")
    assert most == [3]


def test_malformed_tests_are_refused_with_the_problem() -> None:
    for tests in (
        [],
        [1],
        {"input": "1"},
        [{"input": "1"}],
        5,
        ["assert 1", {"input": "", "output": ""}],
    ):
        with pytest.raises(ValueError, match=r"problem 'p3': its tests are .*give Python source"):
            _judge("x = 1", tests)


def hard_tests(problem: Problem) -> str:
    return f"assert answer() == {problem.answer}"


def test_tests_may_be_made_from_the_problem() -> None:
    verifier = ExecutionVerifier(tests=hard_tests)
    assert _judge("def answer(): return 42", gold="42", verifier=verifier).score == 1.0
    assert fingerprint(verifier) != fingerprint(ExecutionVerifier())


def test_it_is_described_by_what_decides_a_verdict() -> None:
    verifier = ExecutionVerifier(cpu_seconds=3)
    assert fingerprint(pickle.loads(pickle.dumps(verifier))) == fingerprint(verifier)
    assert fingerprint(evolve(verifier, processes=2)) == fingerprint(verifier)
    for other in ({"partial": True}, {"memory_bytes": 1 << 29}, {"isolation": ("files",)}):
        assert fingerprint(evolve(verifier, **other)) != fingerprint(verifier)


def test_a_machine_that_does_not_isolate_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**launch._ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(launch, "_ENVIRONMENT", environment)
    fake = tmp_path / "landlock.py"
    fake.write_text("raise OSError('Landlock is disabled')", encoding="utf-8")
    size = (1 << 30) + 4096
    with pytest.raises(SandboxError, match=r"files, .*cannot be enforced: .*Landlock is disabled"):
        ExecutionVerifier(memory_bytes=size)
    # Nor is one that only says so.
    fake.write_text(
        "from enum import IntFlag\n"
        "class FSAccess(IntFlag): READ_FILE = 1; READ_DIR = 2; WRITE_FILE = 4\n"
        "class Ruleset:\n  def allow(self, *paths, rules): pass\n  def apply(self): pass",
        encoding="utf-8",
    )
    with pytest.raises(SandboxError, match=r"^files: not enforced on this machine"):
        ExecutionVerifier(memory_bytes=size)
    # Without it, on one's own word.
    weaker = ExecutionVerifier(memory_bytes=size, isolation=("network", "processes", "memory"))
    assert (
        _judge("print(open('/etc/hostname').name)", gold="/etc/hostname", verifier=weaker).score == 1.0
    )
    with pytest.raises(ValueError, match="there is no kind 'disk'"):
        ExecutionVerifier(isolation=("disk",))


def test_a_sandbox_that_breaks_later_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyseccomp.py").write_text("raise OSError('gone')", encoding="utf-8")
    monkeypatch.setattr(launch, "_ENVIRONMENT", {**launch._ENVIRONMENT, "PYTHONPATH": str(tmp_path)})
    for tests, gold in ((None, "1"), (ADDS, None)):
        with pytest.raises(SandboxError, match="could not be locked down: OSError: gone"):
            _judge("print(1)", tests, gold)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
    | st.frozensets(st.integers()) | st.sets(st.text()),
    max_leaves=20,
)  # fmt: skip


@given(PLAIN)
def test_plain_data_cross_as_they_are(value: Any) -> None:
    def refer(value: Any) -> int:
        raise AssertionError(value)

    crossed = decode(json.loads(json.dumps(encode(value, refer))), refer)
    assert crossed == value
    assert type(crossed) is type(value)


def test_it_keeps_every_promise() -> None:
    states = [_state("def f(x): return x * 2", "assert f(2) == 4"), _state("print(6)", gold="5")]
    check_verifier(ExecutionVerifier(cpu_seconds=2), states=states)
