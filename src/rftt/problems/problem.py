"""A problem: what is asked, and the answer it is marked against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

BOXED: Final = "\\boxed{"
"""What opens an answer in a solution's text; a closing brace ends it."""


@frozen
class Problem:
    """A question and its gold answer.

    Attributes:
        id: names the problem in files and seeds its random stream; it must be unique in a run.
        question: what is asked.
        answer: the gold answer that a verifier marks against; ``None`` where none is known.
        metadata: what else is known, as JSON: ``{"level": 5, "subject": "Algebra"}`` to report by, or
            what a verifier needs, such as unit tests. No policy and no searcher reads it.

    Raises:
        ValueError: if the id or the question is empty.
    """

    id: str
    question: str
    answer: str | None = None
    metadata: Mapping[str, Any] = field(factory=dict, hash=False)

    def __attrs_post_init__(self) -> None:
        if not self.id:
            raise ValueError("a problem needs an id that is not empty: it seeds its random stream")
        if not self.question.strip():
            raise ValueError(f"problem {self.id!r}: the question is empty")


def question_line(problem: Problem) -> str:
    """Return the default prompt of a problem: its question and a new line."""
    return problem.question + "\n"
