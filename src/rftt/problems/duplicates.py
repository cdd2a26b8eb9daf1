"""Near-duplicates among problems, and between what is trained on and what is tested on.

Candidates come from MinHash and locality-sensitive hashing (Broder, 1997; Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, chapter 3), by `rensa`, an optional dependency. Each one's similarity
is then computed exactly, so no pair below the threshold is reported. Questions of the same words are
always found; a pair at the threshold is missed with a probability below 0.001.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from rftt.problems.problem import Problem

_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_HASHES: Final = 256
_MISSED: Final = 0.001


@frozen
class NearDuplicate:
    """Two problems whose questions are alike.

    Attributes:
        first, second: the problems; of contamination, the training problem and the test problem.
        similarity: the Jaccard similarity of their questions' n-grams, at most 1.
    """

    first: Problem
    second: Problem
    similarity: float


def similarity(a: str, b: str, *, ngram: int = 3) -> float:
    """Return the Jaccard similarity of two texts' n-grams: shared ones over all.

    Args:
        a, b: the texts. Case and white space do not count.
        ngram: how many words or signs in a row make one; a shorter text is one by itself.

    Raises:
        ValueError: if ``ngram`` is less than 1.
    """
    return _jaccard(_ngrams(a, ngram), _ngrams(b, ngram))


def near_duplicates(
    problems: Sequence[Problem], threshold: float = 0.8, *, ngram: int = 3
) -> list[NearDuplicate]:
    """Find the pairs of problems whose questions are alike, most alike first.

    Args:
        problems: the problems.
        threshold: least similarity, above 0 and at most 1.
        ngram: as for :func:`similarity`.

    Raises:
        ValueError: if ``threshold`` or ``ngram`` is out of its range.
        ImportError: without rensa.
    """
    return _pairs(problems, None, threshold, ngram)


def contamination(
    train: Sequence[Problem], test: Sequence[Problem], threshold: float = 0.8, *, ngram: int = 3
) -> list[NearDuplicate]:
    """Find the pairs of a training and a test problem whose questions are alike, most alike first.

    Args:
        train, test: the problems. What is alike within one of them is not reported.
        threshold, ngram: as for :func:`near_duplicates`.

    Raises:
        ValueError, ImportError: as :func:`near_duplicates`.
    """
    return _pairs([*train, *test], len(train), threshold, ngram)


def _pairs(
    problems: Sequence[Problem], border: int | None, threshold: float, ngram: int
) -> list[NearDuplicate]:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    grams = [_ngrams(problem.question, ngram) for problem in problems]
    found = []
    for i, j in _candidates(grams, border, threshold):
        alike = _jaccard(grams[i], grams[j])
        if alike >= threshold:
            found.append((-alike, i, j))
    return [NearDuplicate(problems[i], problems[j], -alike) for alike, i, j in sorted(found)]


def _candidates(
    grams: Sequence[frozenset[str]], border: int | None, threshold: float
) -> Iterator[tuple[int, int]]:
    """Yield pairs of places that may be alike, lower first; with a ``border``, one on each side."""
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError as error:
        raise ImportError("near-duplicates are found by rensa: pip install 'rftt[dedup]'") from error

    bands, rows = _banding(threshold)
    index = RMinHashLSH(threshold=threshold, num_perm=bands * rows, num_bands=bands)
    seen: list[Any] = []
    for place, present in enumerate(grams):
        signature = RMinHash(num_perm=bands * rows, seed=0)
        signature.update(sorted(present))
        seen.append(signature)
        if border is None or place < border:
            index.insert(place, signature)
    for place in range(border or 0, len(seen)):
        for other in set(index.query(seen[place])):
            if other < place:
                yield other, place


def _banding(threshold: float) -> tuple[int, int]:
    """Return numbers of bands and of rows in each: as many rows as miss few enough at the threshold."""
    rows = 1
    while rows < 16 and (1 - threshold ** (rows + 1)) ** (_HASHES // (rows + 1)) <= _MISSED:
        rows += 1
    return _HASHES // rows, rows


def _ngrams(text: str, ngram: int) -> frozenset[str]:
    if ngram < 1:
        raise ValueError(f"ngram must be 1 or more, not {ngram}")
    tokens = _TOKEN.findall(text.casefold())
    last = max(1, len(tokens) - ngram + 1)
    return frozenset(" ".join(tokens[i : i + ngram]) for i in range(last))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)
