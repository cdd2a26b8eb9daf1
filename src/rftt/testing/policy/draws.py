"""Promises on distributions, held against many draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from rftt.interfaces import State, Step
from rftt.testing.policy.bench import Bench, asked
from rftt.testing.policy.chi_squared import Fit
from rftt.testing.policy.contents import check_log_prob_values
from rftt.testing.policy.promises import FrequenciesBroken, LogProbsBroken, PriorBroken

Key = tuple[str, tuple[int, ...]]
"""What ids are drawn after: a function, where the ids do not say it, and the ids before."""


@define
class Place:
    """The ids that were drawn after the same ids, with the log-probability of each."""

    counts: Counter[int] = field(factory=Counter)
    log_probs: dict[int, float] = field(factory=dict)


def check_log_probs(bench: Bench) -> None:
    """Check that log-probabilities are numbers, are the same each time, and leave no more than all."""
    check_log_prob_values(bench)
    for state, function, completions in bench.sampled:
        _consistent(bench, state, function, completions)


def check_frequencies(bench: Bench) -> None:
    """Check that ids come as often as their log-probabilities say."""
    for state, function, completions in bench.sampled:
        places = _consistent(bench, state, function, completions)
        fit = Fit()
        worst, largest = "", 0.0
        for (_, before), place in places.items():
            one = Fit()
            one.add(place.log_probs, place.counts)
            fit.statistic += one.statistic
            fit.degrees += one.degrees
            if one.degrees and one.statistic / one.degrees > largest:
                largest = one.statistic / one.degrees
                worst = _shown(before, place)
        if not fit.is_good:
            raise FrequenciesBroken(
                f"chi-squared is {fit.statistic:.0f} at {fit.degrees} degrees of freedom, where "
                f"{fit.limit:.0f} is passed once in a million; {worst}",
                f"{asked(state)}, {'any function' if function is None else function}",
            )


def check_prior(bench: Bench) -> None:
    """Check what a prior holds, and that functions come as often as it says."""
    for state, prior in zip(bench.states, bench.prior(bench.states, PriorBroken), strict=True):
        if what := _wrong(bench, state, prior):
            raise PriorBroken(f"{what}: {dict(prior)}", asked(state))
    for state, function, completions in bench.sampled:
        if function is not None:
            continue
        (prior,) = bench.prior([state], PriorBroken)
        counts = Counter(steps[0].function for steps in completions)
        if unknown := counts.keys() - prior.keys():
            raise PriorBroken(
                f"{min(unknown)!r} came, and the prior lacks it: {dict(prior)}", asked(state)
            )
        fits = []
        for expected in (prior, _tempered(bench, prior)):
            fits.append(Fit())
            fits[-1].add(dict(expected), dict(counts))
        if not any(fit.is_good for fit in fits):
            shares = {name: f"{math.exp(prior[name]):.3f}" for name in prior}
            came = {name: f"{counts[name] / len(completions):.3f}" for name in prior}
            raise PriorBroken(
                f"the prior is {shares}, and functions came so often: {came}", asked(state)
            )


def _wrong(bench: Bench, state: State, prior: Mapping[str, float]) -> str | None:
    legal = bench.policy.grammar.legal(state.last)
    slack = 10 * bench.tolerance
    if not prior:
        return "there is no function in the prior of a state that is not finished"
    for name, log_prob in prior.items():
        if name not in legal:
            return f"{name!r} may not follow"
        if math.isnan(log_prob) or log_prob > slack:
            return f"the log-probability of {name!r} is {log_prob}"
    if abs((total := math.fsum(map(math.exp, prior.values()))) - 1) > slack:
        return f"the probabilities add up to {total:.6g}"
    return None


def _tempered(bench: Bench, prior: Mapping[str, float]) -> dict[str, float]:
    """Return the prior as it is under the policy's sampling parameters. Where it is of openers, what
    temperature and truncation make of it is what they make of all logits."""
    if (params := getattr(bench.policy, "sampling_params", None)) is None:
        return dict(prior)
    import torch

    from rftt.samplers.sampling import probabilities

    row = probabilities(torch.tensor([list(prior.values())]), None, params)[0].log()
    return dict(zip(prior, row.tolist(), strict=True))


def _consistent(
    bench: Bench, state: State, function: str | None, completions: Sequence[Sequence[Step]]
) -> dict[Key, Place]:
    """Return the draws by what they came after. Where the policy chooses functions in another way than
    by ids, draws are of one function.

    Raises:
        LogProbsBroken: if log-probabilities after the same ids do not fit together.
    """
    places, wrong = _places(bench, completions, by_function=False)
    if wrong and function is None:
        places, other = _places(bench, completions, by_function=True)
        wrong = other and wrong
    if wrong:
        raise LogProbsBroken(wrong, f"{asked(state)}, {function or 'any function'}")
    return places


def _places(
    bench: Bench, completions: Sequence[Sequence[Step]], *, by_function: bool
) -> tuple[dict[Key, Place], str]:
    places: dict[Key, Place] = {}
    for step in (steps[0] for steps in completions):
        for number, token in enumerate(step.ids):
            if not step.action_mask[number]:
                continue
            before = step.ids[:number]
            place = places.setdefault((step.function if by_function else "", before), Place())
            place.counts[token] += 1
            first = place.log_probs.setdefault(token, step.log_probs[number])
            if not abs(first - step.log_probs[number]) <= bench.tolerance:
                other = step.log_probs[number]
                return places, f"id {token} after {list(before)} has {first:.6g}, then {other:.6g}"
    for (_, before), place in places.items():
        total = math.fsum(map(math.exp, place.log_probs.values()))
        if total > 1 + 2 * bench.tolerance:
            return places, f"probabilities add up to {total:.6g}: {_shown(before, place)}"
    return places, ""


def _shown(before: tuple[int, ...], place: Place) -> str:
    draws = place.counts.total()
    shares: dict[int, Any] = {
        token: f"{count / draws:.3f} (said {math.exp(place.log_probs[token]):.3f})"
        for token, count in place.counts.most_common(4)
    }
    return f"after the ids {list(before)}, {draws} draws were {shares}"
