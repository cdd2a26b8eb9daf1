"""Policies keep their promises on every sampler, and each promise is one that is caught when broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from rftt import (
    FunctionalPolicy,
    FunctionalTokens,
    GenerationRequest,
    Grammar,
    Policy,
    Problem,
    PromptedPolicy,
    Step,
    TransformersSampler,
)
from rftt.policies.chat import chat_question
from rftt.samplers.openai import ServerSampler
from rftt.samplers.plain import PlainSampler
from rftt.testing import (
    LEARNER_PROMISES,
    POLICY_PROMISES,
    PROMISES,
    VERIFIER_PROMISES,
    BrokenPromises,
    ContractViolation,
    FinitePolicy,
    TabularPolicy,
    check_policy,
)
from rftt.testing.finite.model import FiniteModel
from rftt.testing.policy.chi_squared import Fit
from rftt.tokens.embeddings import initialize_token_embeddings
from tests.completions_server import Faults, serving
from tests.families import family_model, family_tokenizer
from tests.models import functional_policy, tiny_model, tokenizer
from tests.testing import broken_policies as broken

NO_MODEL = "the policy's sampler has no model at hand; give a forward pass with logits="
SMALL: dict[str, Any] = {"problems": [Problem("p", "12+34*2")], "max_tokens": 16, "draws": 300}
BROKEN: list[tuple[Callable[[], Policy], str]] = [
    (broken.TakesNotes, "requests unchanged"),
    (broken.EmptiesTheList, "requests unchanged"),
    (broken.NothingForNothing, "replies"),
    (broken.AnswersTwinsOnce, "replies"),
    (broken.ReturnsAnIterator, "replies"),
    (broken.Chance, "repeated requests"),
    (broken.ChecksTwice, "legal functions"),
    (broken.OneMore, "limits"),
    (broken.GoesOn, "limits"),
    (broken.CountsSteps, "limits"),
    (broken.ChoosesItself, "forcing"),
    (broken.ForgetsThePrefix, "forcing"),
    (broken.AllDrawn, "action mask"),
    (broken.OpenersForced, "action mask"),
    (broken.CutsInSilence, "ends of steps"),
    (broken.NeverEnds, "ends of steps"),
    (broken.StopsEarly, "ends of steps"),
    (broken.ClosesInside, "control ids"),
    (broken.AnyPrefix, "control ids"),
    (broken.WritesNeatly, "text"),
    (broken.ReadsItsText, "context"),
    (broken.NoLogProbs, "log-probs"),
    (broken.Certain, "log-probs"),
    (broken.BeforeTemperature, "frequencies"),
    (broken.Seedless, "frequencies"),
    (broken.SaysAnotherTemperature, "forward pass"),
    (broken.UniformPrior, "prior"),
    (broken.PriorOfAll, "prior"),
    (broken.LogitsForPrior, "prior"),
    (broken.LongestFirst, "completion order"),
    (broken.SeedByPlace, "company of requests"),
    (broken.PriorAmongOthers, "company of requests"),
    (broken.CachesById, "memory of requests"),
    (broken.StreamsOtherwise, "streams"),
    (broken.NumbersItsStream, "streams"),
    (broken.CountsInItsSettings, "policy fingerprint"),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", str(value)).replace(" ", "_")


def _table_logits() -> Callable[[tuple[int, ...]], torch.Tensor]:
    """The table of the right policy as a model."""
    model = FiniteModel(broken.Right())
    return lambda ids: model(torch.tensor([ids])).logits[0].detach()


def test_a_right_policy_keeps_every_promise() -> None:
    report = check_policy(broken.Right, logits=_table_logits(), max_changed_share=0.0)
    assert report.untried == {}
    assert report.changed_share == 0.0 == report.largest_difference
    assert report.compared > report.completions > 100
    assert report.draws == 4000


@pytest.mark.parametrize(("build", "promise"), BROKEN, ids=_name)
def test_a_broken_promise_is_named(build: Callable[[], Policy], promise: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        check_policy(build, logits=_table_logits(), max_changed_share=0.0)
    assert caught.value.promise == promise
    assert POLICY_PROMISES[promise] in str(caught.value)
    found = getattr(caught.value, "violations", (caught.value,))
    assert [violation.promise for violation in found] == [promise]


def test_every_promise_is_one_that_a_policy_here_breaks() -> None:
    assert {promise for _, promise in BROKEN} == POLICY_PROMISES.keys()
    others = PROMISES.keys() | LEARNER_PROMISES.keys() | VERIFIER_PROMISES.keys()
    assert not POLICY_PROMISES.keys() & others


@pytest.mark.parametrize("kind", [TabularPolicy, FinitePolicy])
def test_finite_policies_keep_every_promise(kind: type[TabularPolicy]) -> None:
    check_policy(lambda: kind(broken.GRAMMAR, broken.TABLE), max_changed_share=0.0)


def _functional(kind: type[Any], **settings: float) -> FunctionalPolicy:
    policy = functional_policy()
    sampler = kind(policy.sampler.model, policy.tokenizer, **settings)  # type: ignore[attr-defined]
    return FunctionalPolicy(sampler, policy.tokenizer, policy.tokens)


def _prompted(kind: type[Any], **settings: float) -> PromptedPolicy:
    words = tokenizer()
    return PromptedPolicy(kind(tiny_model(), words, **settings), words, Grammar.default())


@pytest.mark.parametrize("make", [_functional, _prompted], ids=_name)
@pytest.mark.parametrize("sampler", [TransformersSampler, PlainSampler])
def test_policies_keep_every_promise_on_every_sampler(
    make: Callable[..., Policy], sampler: type[Any]
) -> None:
    report = check_policy(make(sampler), **SMALL)
    assert report.untried == {}
    assert report.deepest == 2


@pytest.mark.parametrize(
    ("make", "params"),
    [(_functional, {"temperature": 1.3, "top_p": 0.9}), (_prompted, {"temperature": 0.0})],
    ids=_name,
)
def test_log_probs_and_priors_are_right_at_any_temperature(
    make: Callable[..., Policy], params: Mapping[str, float]
) -> None:
    check_policy(make(TransformersSampler, **params), **SMALL)


def test_special_ids_of_a_chat_model_stay_out_of_bodies() -> None:
    brief = SMALL | {"max_tokens": 8, "draws": 100}
    words = family_tokenizer("qwen2")
    model = family_model("qwen2", len(words) + 3)
    question = chat_question(words)
    sampler = TransformersSampler(model, words)
    check_policy(PromptedPolicy(sampler, words, Grammar.default(), question=question), **brief)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    sampler = TransformersSampler(model, words)
    check_policy(FunctionalPolicy(sampler, words, tokens, question=question), **brief)


@pytest.mark.slow
def test_a_policy_on_a_server_keeps_its_promises() -> None:
    """But for log-probabilities: a server masks nothing, so where a body came out blank, its first id is
    drawn again from what is left, and others are not."""
    words = tokenizer()
    again = "the first id of a blank body is drawn again"
    with serving(TransformersSampler(tiny_model(), words), words, Faults()) as url:
        report = check_policy(
            PromptedPolicy(ServerSampler(url, "tiny", words), words, Grammar.default()),
            problems=SMALL["problems"], max_tokens=4, draws=20,
            waived={"log-probs": again, "frequencies": again, "forward pass": again},
        )  # fmt: skip
    assert report.untried == {}


def test_a_waived_promise_is_not_demanded_and_others_are() -> None:
    waived = {
        "log-probs": "the server gives none",
        "frequencies": "likewise",
        "forward pass": "likewise",
    }
    check_policy(broken.NoLogProbs, waived=waived)
    with pytest.raises(ContractViolation, match=r"^prior: "):
        check_policy(broken.UniformPrior, waived=waived)


def test_all_that_is_broken_is_listed_with_what_follows_from_it() -> None:
    class Both(broken.OneMore, broken.UniformPrior):
        pass

    with pytest.raises(BrokenPromises, match="2 promises are broken: limits, prior") as caught:
        check_policy(Both)
    assert caught.value.untried == {"forward pass": NO_MODEL}
    with pytest.raises(BrokenPromises, match="from which it follows") as caught:
        check_policy(broken.Chance)
    assert {"streams", "company of requests"} < caught.value.untried.keys()


def test_what_cannot_be_tried_is_said(caplog: pytest.LogCaptureFixture) -> None:
    report = check_policy(broken.Right(), max_tokens=1)
    assert report.untried == {"forward pass": NO_MODEL}
    assert report.deepest == 0
    assert (
        "nothing was tried beyond the question: no first step ended within max_tokens=1" in caplog.text
    )
    assert f"forward pass was not tried: {NO_MODEL}" in caplog.text


def test_rounding_is_allowed_in_some_completions_and_reported() -> None:
    """A draw that falls on the border of two ids may go either way in another batch."""

    class Rounds(broken.Right):
        def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
            return super().extend(
                [
                    evolve(request, seed=request.seed + (len(requests) > 100 and request.seed % 16 == 0))
                    for request in requests
                ]
            )

    report = check_policy(Rounds, max_changed_share=0.1)
    assert 0 < report.changed_share < 0.1
    with pytest.raises(ContractViolation, match=r"completions changed; 0.0% may"):
        check_policy(Rounds, max_changed_share=0.0)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no promise 'fork'; there are: requests unchanged, "):
        check_policy(broken.Right, waived={"fork": "a slip"})
    with pytest.raises(ValueError, match="problems: there are none"):
        check_policy(broken.Right, problems=[])
    with pytest.raises(TypeError, match=r"build: it made a dict, not a Policy"):
        check_policy(dict)  # type: ignore[arg-type]


def test_the_problems_are_left_as_they_were() -> None:
    """A policy that writes into them is caught every time, not only the first."""
    problems = [Problem("p", "1+1", "2")]
    for _ in range(2):
        with pytest.raises(ContractViolation, match=r"^requests unchanged: "):
            check_policy(broken.TakesNotes, problems=problems)
    assert problems[0].metadata == {}


def test_a_fit_is_pearsons_statistic_over_classes_that_are_not_rare() -> None:
    fit = Fit()
    # 100 draws: 50 and 30 expected, and 20 of all others together.
    fit.add(
        {"a": math.log(0.5), "b": math.log(0.3), "c": math.log(0.05)},
        {"a": 40, "b": 38, "c": 7, "d": 15},
    )
    assert fit.statistic == pytest.approx(100 / 50 + 64 / 30 + 4 / 20)
    assert fit.degrees == 2
    # 5 others are too few to be a class: they go with the least likely of the rest.
    fit.add({"a": math.log(0.7), "b": math.log(0.25)}, {"a": 60, "b": 20, "c": 20})
    assert fit.statistic == pytest.approx(100 / 50 + 64 / 30 + 4 / 20 + 100 / 70 + 100 / 30)
    assert fit.degrees == 3


@given(st.integers(1, 200))
def test_a_right_sample_passes_the_limit_less_than_once_in_a_million(half: int) -> None:
    """For 2m degrees of freedom the tail is that of a Poisson variable: fewer than m of limit / 2."""
    mean = Fit(0.0, 2 * half).limit / 2
    terms = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(half))
    assert 2e-7 < math.fsum(map(math.exp, terms)) < 1.1e-6
