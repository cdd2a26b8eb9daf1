"""Near-duplicates: exact ones always, none below the threshold, near ones nearly always."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rftt import Problem
from rftt.problems.duplicates import NearDuplicate, contamination, near_duplicates, similarity

# Few words, so that texts share many n-grams; signs and blanks too.
texts = st.lists(
    st.sampled_from(["a", "b", "c", "Is", "x+1", "x-1", "∑", "?", "\n"]), min_size=1, max_size=9
).map(" ".join).filter(lambda text: text.strip())  # fmt: skip
text_lists = st.lists(texts, max_size=8)
thresholds = st.sampled_from([0.05, 0.3, 0.5, 0.8, 1.0])


def _problems(questions: list[str], name: str = "p") -> list[Problem]:
    return [Problem(f"{name}{i}", question) for i, question in enumerate(questions)]


def _ids(pairs: list[NearDuplicate]) -> set[frozenset[str]]:
    return {frozenset((pair.first.id, pair.second.id)) for pair in pairs}


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams of a text of words and signs between blanks, by another way."""
    tokens = text.lower().replace("+", " + ").replace("-", " - ").split()
    return {tuple(tokens[i : i + n]) for i in range(len(tokens)) if i + n <= len(tokens)} or {
        tuple(tokens)
    }


@given(texts, texts, st.integers(1, 4))
def test_similarity_is_shared_over_all(a: str, b: str, n: int) -> None:
    first, second = _grams(a, n), _grams(b, n)
    assert similarity(a, b, ngram=n) == len(first & second) / len(first | second)
    assert similarity(a, b, ngram=n) == similarity(b, a, ngram=n)
    assert similarity(a, f" {a.upper()}\t", ngram=n) == 1


@given(text_lists, thresholds, st.integers(1, 3))
def test_no_pair_is_below_the_threshold_and_exact_ones_are_found(
    questions: list[str], threshold: float, n: int
) -> None:
    problems = _problems(questions)
    pairs = near_duplicates(problems, threshold, ngram=n)
    for pair in pairs:
        assert pair.similarity == similarity(pair.first.question, pair.second.question, ngram=n)
        assert pair.similarity >= threshold
        assert problems.index(pair.first) < problems.index(pair.second)
    assert [pair.similarity for pair in pairs] == sorted((p.similarity for p in pairs), reverse=True)
    assert len(_ids(pairs)) == len(pairs)
    exact = {
        frozenset((a.id, b.id))
        for a in problems
        for b in problems
        if a.id < b.id and _grams(a.question, n) == _grams(b.question, n)
    }
    assert exact <= _ids(pairs)


@given(text_lists, thresholds)
def test_the_order_of_the_problems_does_not_matter(questions: list[str], threshold: float) -> None:
    problems = _problems(questions)
    assert _ids(near_duplicates(problems, threshold)) == _ids(near_duplicates(problems[::-1], threshold))


@given(text_lists, text_lists, thresholds)
@example(["a b c"] * 2, [], 0.5)
@example([], ["a b c"] * 2, 0.5)
@example(["a b c"], ["A  b c"], 1.0)
def test_contamination_is_what_is_alike_across_and_is_symmetric(
    train: list[str], test: list[str], threshold: float
) -> None:
    first, second = _problems(train, "train"), _problems(test, "test")
    pairs = contamination(first, second, threshold)
    assert all(pair.first in first and pair.second in second for pair in pairs)
    assert _ids(pairs) == _ids(contamination(second, first, threshold))
    within = _ids(near_duplicates(first, threshold)) | _ids(near_duplicates(second, threshold))
    assert _ids(near_duplicates(first + second, threshold)) == _ids(pairs) | within


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_nearly_all_pairs_at_the_threshold_are_found(threshold: float) -> None:
    rng = Random(0)
    originals = [[f"w{rng.randrange(10**6)}" for _ in range(40)] for _ in range(300)]
    problems, expected = [], set()
    for i, words in enumerate(originals):
        # A changed word takes three of 38 n-grams from both, so k of them, far apart, leave
        # (38 - 3k) / (38 + 3k).
        changed = max(k for k in range(13) if (38 - 3 * k) / (38 + 3 * k) >= threshold)
        other = [
            f"new{j}" if 2 <= j < 2 + 3 * changed and j % 3 == 2 else w for j, w in enumerate(words)
        ]
        problems += [Problem(f"a{i}", " ".join(words)), Problem(f"b{i}", " ".join(other))]
        expected.add(frozenset((f"a{i}", f"b{i}")))
    pairs = near_duplicates(problems, threshold)
    assert {round(pair.similarity, 9) for pair in pairs} == {
        round((38 - 3 * changed) / (38 + 3 * changed), 9)
    }
    # Of 300, each missed with a probability below 0.001, more than 3 are missed once in 2,500 times.
    assert len(expected - _ids(pairs)) <= 3
    assert _ids(pairs) <= expected


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be above 0"):
        near_duplicates([], threshold)
    with pytest.raises(ValueError, match="ngram must be 1 or more, not 0"):
        near_duplicates(_problems(["a"]), ngram=0)


def test_without_rensa_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rensa'] = None\n"
        "from rftt.problems.duplicates import near_duplicates, similarity\n"
        "print(similarity('a b', 'A b'))\n"
        "near_duplicates([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1.0\n"
    assert "ImportError: near-duplicates are found by rensa: pip install 'rftt[dedup]'" in done.stderr
