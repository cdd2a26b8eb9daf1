"""A policy that judges: the mean of what it says, and nothing where it says nothing."""

from __future__ import annotations

import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    Function,
    GenerationRequest,
    Grammar,
    Policy,
    Problem,
    PromptedPolicy,
    State,
    Step,
    TransformersSampler,
    Verdict,
    Verifier,
)
from rftt.fingerprint import difference, fingerprint
from rftt.testing import check_verifier
from rftt.testing.finite.tabular import Reply, TabularPolicy
from rftt.verifiers.calibration import Calibrated, Platt
from rftt.verifiers.generative import (
    YES_OR_NO,
    AskAbout,
    AskToVerify,
    GenerativeVerifier,
    OutOf,
    Words,
)
from tests.models import functional_policy, tiny_model, tokenizer
from tests.verifiers.reward_models import state

JUDGE = Grammar([Function("judge", "yes or no")], start=["judge"], followers={})
OK = Words(["ok"], ["not"])
TWO_MINDS = TabularPolicy(JUDGE, {(): [Reply("judge", "yes", 0.5), Reply("judge", "no", 0.5)]})


def _says(**probabilities: float) -> TabularPolicy:
    return TabularPolicy(JUDGE, {(): [Reply("judge", text, p) for text, p in probabilities.items()]})


# -- reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", 1.0),
        ("yes, though there is no proof", 1.0),
        ("No: 2*3 is 6, the rest is right", 0.0),
        ("This is INCORRECT", 0.0),
        ("The solution is not correct", 0.0),
        ("Knowing this, nothing yesterday", None),
        ("", None),
    ],
)
def test_yes_or_no(text: str, said: float | None) -> None:
    assert YES_OR_NO(text) == said


@given(st.text("ok not81", max_size=12))
def test_the_first_whole_word_counts(text: str) -> None:
    words = "".join(c if c.isalnum() else " " for c in text).split()
    known = [word for word in words if word in ("ok", "not")]
    assert OK(text) == (None if not known else float(known[0] == "ok"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("8/10", 0.8), ("Score: 10", 1.0), ("0", 0.0), ("7.5 of 10", 0.75), ("11", None), ("none", None),
     ("9" * 5000, None), ("", None)],
)  # fmt: skip
def test_out_of_ten(text: str, said: float | None) -> None:
    assert OutOf(10)(text) == said


# -- asking ---------------------------------------------------------------------------------------------


def test_a_question_shows_the_solution_and_no_gold() -> None:
    asked = AskAbout("{question} | {solution} | ok?")(state(["{2*3}=6", " 7 "], "2*3+1 {?}", id="q"))
    assert asked == State(Problem("judge q", "2*3+1 {?} | {2*3}=6\n7 | ok?"))
    assert "What is 2*3+1?" in AskAbout()(state(["7"])).problem.question


@pytest.mark.parametrize(
    ("functions", "kept"),
    [
        (["next_step", "output"], 1),
        (["next_step", "direct_answer", "output"], 2),
        (["next_step"], 1),
        (["next_step", "verify"], 2),
        (["analysis", "subquestion"], None),
    ],
)
def test_a_check_follows_the_last_step_that_it_may_follow(
    functions: list[str], kept: int | None
) -> None:
    steps = tuple(Step(name, "1", (5,), (-1.0,), (True,), terminal=False) for name in functions)
    asked = AskToVerify(Grammar.default())(State(Problem("p", "?"), steps))
    assert asked == (None if kept is None else State(Problem("p", "?"), steps[:kept]))


# -- scores ---------------------------------------------------------------------------------------------


def test_the_score_is_the_share_of_samples_that_say_right() -> None:
    policy = _says(yes=0.6, no=0.2, hm=0.2)
    verifier = GenerativeVerifier(policy, AskAbout(), YES_OR_NO, samples=4000)
    (verdict,) = verifier.judge([state(["7"])])
    # Of those that can be read 3 in 4 say yes; the standard error is 0.0077.
    assert verdict.score == pytest.approx(0.75, abs=0.03)
    read = int(verdict.reason.split(" of ")[0])
    assert read == pytest.approx(3200, abs=110)
    assert (verdict.score or 0.0) * read == pytest.approx(round((verdict.score or 0.0) * read))


class _Recorder(Policy):
    """Remembers what it is asked, and answers by the question."""

    def __init__(self) -> None:
        self.grammar = JUDGE
        self.requests: list[GenerationRequest] = []

    def prior(self, states: Sequence[State]) -> list[Mapping[str, float]]:
        return [{"judge": 0.0} for _ in states]

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        self.requests += requests
        return [[self._step(request.state.problem.question)] for request in requests]

    def _step(self, question: str) -> Step:
        said = "yes" if "\n7\n" in question else "no"
        cut = "cut" in question
        return Step("judge", said, (5,), (-1.0,), (True,), terminal=True, truncated=cut)


def test_one_call_of_the_policy_for_all_states() -> None:
    policy = _Recorder()
    verifier = GenerativeVerifier(
        policy, AskAbout(), YES_OR_NO, samples=3, function="judge", max_tokens=9
    )
    right, wrong = state(["7"]), state(["8"])
    assert [verdict.score for verdict in verifier.judge([right, state([]), wrong])] == [1.0, None, 0.0]
    assert len(policy.requests) == 6
    assert {(r.function, r.until, r.max_steps, r.max_tokens) for r in policy.requests} == {
        ("judge", "step", 1, 9)
    }
    assert len({request.seed for request in policy.requests}) == 6
    before = [request.seed for request in policy.requests]
    policy.requests.clear()
    verifier.judge([wrong])
    assert [request.seed for request in policy.requests] == before[3:], "seeds are the state's own"
    policy.requests.clear()
    GenerativeVerifier(policy, AskAbout(), YES_OR_NO, samples=3, seed=1).judge([wrong])
    assert not {request.seed for request in policy.requests} & set(before)


def test_a_judgement_that_was_cut_short_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    verifier = GenerativeVerifier(_Recorder(), AskAbout(), YES_OR_NO, samples=2)
    verdicts = verifier.judge([state(["7", "cut"])] * 10)
    assert {verdict.score for verdict in verdicts} == {None}
    assert verdicts[0].reason == (
        "none of 2 judgements could be read, and 2 of them were cut short; the last is 'yes'"
    )
    assert verifier.abstained == 10
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 2, "at 1 and at 10"


def test_what_cannot_be_judged() -> None:
    policy = functional_policy(brief=True)
    verifier = GenerativeVerifier(policy, AskToVerify(policy.grammar), OK, function="verify")
    question, unverifiable = verifier.judge([state([]), state(["plan"])])
    assert question == Verdict(None, reason="there is no step to judge yet")
    assert unverifiable == Verdict(None, reason="no step of the solution may be followed by a judgement")
    assert verifier.abstained == 1
    assert verifier.judge([]) == []
    with pytest.raises(ValueError, match="samples must be 1 or more"):
        GenerativeVerifier(policy, AskAbout(), OK, samples=0)


class _Short(_Recorder):
    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        return super().extend(requests)[1:]


def test_a_policy_that_leaves_a_request_out_is_named() -> None:
    with pytest.raises(ValueError, match=r"_Short.extend returned 7 completions for 8 requests"):
        GenerativeVerifier(_Short(), AskAbout(), YES_OR_NO).judge([state(["7"])])


class _Boxes(Verifier):
    def judge(self, states: Sequence[State]) -> list[Verdict]:
        assert all(state.problem.answer is None for state in states)
        return [Verdict(1.0, state.steps[-1].text) for state in states]

    def equivalent(self, a: str, b: str) -> bool:
        return a.lower() == b.lower()


def test_answers_are_anothers() -> None:
    verifier = GenerativeVerifier(_says(no=1.0), AskAbout(), YES_OR_NO, answers=_Boxes())
    assert verifier.judge([state(["A"])])[0] == Verdict(0.0, "A", "8 of 8 judgements were read")
    assert verifier.equivalent("A", "a") is True


def test_it_keeps_a_verifiers_promises() -> None:
    solutions = [state([str(n)]) for n in range(5)]
    check_verifier(partial(GenerativeVerifier, TWO_MINDS, AskAbout(), YES_OR_NO), states=solutions)
    calibrated = Calibrated(GenerativeVerifier(TWO_MINDS, AskAbout(), YES_OR_NO), Platt(2.0, -1.0))
    check_verifier(calibrated, states=solutions)


# -- real policies --------------------------------------------------------------------------------------


def _verifying(samples: int = 6) -> GenerativeVerifier:
    policy = functional_policy(brief=True)
    right, wrong = (str(policy.tokenizer.decode([i])).strip() for i in (20, 21))
    read = Words([right], [wrong])
    return GenerativeVerifier(
        policy, AskToVerify(policy.grammar), read, function="verify", samples=samples, max_tokens=40
    )


def _solutions() -> list[State]:
    functions = ["next_step", "direct_answer", "output"]
    return [
        State(
            Problem(f"p{n}", f"{n}+1"),
            tuple(Step(f, "1", (40, 20 + n, 60), (0.0,) * 3, (True,) * 3, terminal=False)
                  for f in functions[: n % 3 + 1]),
        )
        for n in range(5)
    ]  # fmt: skip


def test_a_functional_policy_judges_by_its_verify_steps() -> None:
    verifier, solutions = _verifying(), _solutions()
    verdicts = verifier.judge(solutions)
    scores = [verdict.score for verdict in verdicts]
    assert len({score for score in scores if score is not None}) > 1
    # A verdict depends on its state alone: in another order, alone, and for another verifier.
    assert verifier.judge(solutions[::-1]) == verdicts[::-1]
    assert [verifier.judge([one])[0] for one in solutions] == verdicts
    assert _verifying().judge(solutions) == verdicts


def test_a_prompted_policy_judges_in_words() -> None:
    words = tokenizer()
    sampler = TransformersSampler(tiny_model(sharp=1.0), words)
    policy = PromptedPolicy(sampler, words, JUDGE, prompts={"judge": "yes or no:"})
    digits = Words([*"13579"], [*"02468"])
    verifier = GenerativeVerifier(
        policy, AskAbout("{question} {solution}"), digits, samples=16, max_tokens=60
    )
    asked = AskAbout("{question} {solution}")(state(["6+1=7"]))
    (verdict,) = verifier.judge([state(["6+1=7"])])
    assert verdict.score is not None
    assert 0 <= verdict.score <= 1
    assert policy.extend([GenerationRequest(asked, 0, until="step")])[0][0].function == "judge"
    assert verifier.judge([state(["\ud83d half", "\x00"])])[0].reason


def test_threads_take_turns() -> None:
    verifier, solutions = _verifying(samples=3), _solutions()
    expected = verifier.judge(solutions)
    wrong: list[object] = []

    def judge() -> None:
        try:
            for _ in range(3):
                if (verdicts := verifier.judge(solutions)) != expected:
                    wrong.append(verdicts)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=judge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_fork_waits_for_a_thread_that_judges_and_is_not_locked_out() -> None:
    entered, leave = threading.Event(), threading.Event()
    left: list[float] = []

    class Waiting(TabularPolicy):
        def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
            if threading.current_thread() is not threading.main_thread():
                entered.set()
                leave.wait(20)
                left.append(time.monotonic())
            return super().extend(requests)

    policy = Waiting(JUDGE, {(): [Reply("judge", "yes", 1.0)]})
    verifier = GenerativeVerifier(policy, AskAbout(), YES_OR_NO)
    thread = threading.Thread(target=verifier.judge, args=([state(["7"])],))
    thread.start()
    entered.wait(20)
    threading.Timer(0.3, leave.set).start()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(10)
        scores: list[float | None] = []
        judging = threading.Thread(
            target=lambda: scores.append(verifier.judge([state(["7"])])[0].score), daemon=True
        )
        judging.start()
        judging.join(8)
        os._exit(0 if scores == [1.0] else 1)
    assert left, "the fork waits until no model computes"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()


def test_a_copy_judges_the_same_and_a_fingerprint_tells() -> None:
    verifier = GenerativeVerifier(_says(yes=0.5, no=0.5), AskAbout(), YES_OR_NO)
    again = pickle.loads(pickle.dumps(verifier))
    solutions = [state([str(n)]) for n in range(6)]
    assert again.judge(solutions) == verifier.judge(solutions)
    assert len({verdict.score for verdict in verifier.judge(solutions)}) > 1
    assert difference(fingerprint(verifier), fingerprint(again)) is None
    for part, other in (
        ("ask", GenerativeVerifier(verifier.policy, AskAbout("{solution}"), YES_OR_NO)),
        ("read", GenerativeVerifier(verifier.policy, AskAbout(), OK)),
        ("samples", GenerativeVerifier(verifier.policy, AskAbout(), YES_OR_NO, samples=9)),
        ("seed", GenerativeVerifier(verifier.policy, AskAbout(), YES_OR_NO, seed=1)),
        ("policy", GenerativeVerifier(_says(yes=1.0), AskAbout(), YES_OR_NO)),
    ):
        assert (difference(fingerprint(verifier), fingerprint(other)) or "").startswith(part)


def test_a_score_that_is_not_finite_is_refused() -> None:
    verifier = GenerativeVerifier(_says(yes=1.0), AskAbout(), _not_a_number)
    with pytest.raises(ValueError, match="not a finite number"):
        verifier.judge([state(["7"])])


def _not_a_number(text: str) -> float:
    return math.nan
