"""Warm-up data: right and wrong paths of prompted trees, annotated with functional tokens.

Three kinds of solution come of a tree:

``path``
    a right path as it is, with an ``output`` step that states its answer;
``checked``
    a right path in which the model checked one of its steps and found it right;
``merged``
    branch merging (arXiv 2502.13389): the steps up to where a wrong path leaves the right ones, the
    wrong step, a ``verify`` step in which the model, shown the right step, says what is wrong
    (cross-verification), the right step as ``refine``, and on to ``output``.

A wrong step is there to be read, not to be learned: its ids carry no loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any, Literal

import datasets
from attrs import evolve, frozen

from rftt.interfaces import State
from rftt.policies.prompted import PromptedPolicy
from rftt.problems.problem import Problem, question_line
from rftt.search.tree import SearchTree
from rftt.tokens.functional import FunctionalTokens, Step

Kind = Literal["path", "checked", "merged"]
Judgement = Callable[[str], bool | None]


def says_right(reply: str) -> bool | None:
    """Whether a model's check found the step right (``True``) or wrong (``False``), by the words in
    it; ``None`` if it says neither."""
    words = set(re.findall(r"[a-z']+", reply.lower()))
    if words & {"wrong", "incorrect", "not", "mistake", "error", "isn't", "false"}:
        return False
    return True if words & {"right", "correct", "ok", "true", "yes"} else None


@frozen
class _Step:
    """One step of a solution: body ids, and whether they may be learned."""

    function: str
    body: tuple[int, ...]
    is_learned: bool = True


@frozen
class _Draft:
    """A solution, which lacks the check at place ``check`` if that is not ``None``."""

    tree: SearchTree
    kind: Kind
    steps: tuple[_Step, ...]
    check: int | None = None
    state: State | None = None
    hint: str = ""


@frozen(eq=False)
class WarmUp:
    """Makes annotated solutions from searched trees.

    Attributes:
        policy: the prompted policy that searched; it is asked again for the checks.
        tokens: the functional tokens, in the same tokenizer.
        paths: most right paths to take from one tree: those whose least sure step was surest, because
            a path may be right by luck.
        checks: most checked and most merged solutions to take from one tree.
        judgement: reads a check; a solution whose check says the opposite is dropped.
        verify, refine, output: names of the functions that check, mend and state the answer.
        question: how a problem opens a solution; it may differ from the prompted policy's, which may
            hold examples that a tuned model does without.
        comparison: how the right step is shown beside a wrong one; ``{step}`` stands for its text.
    """

    policy: PromptedPolicy
    tokens: FunctionalTokens
    paths: int = 3
    checks: int = 1
    judgement: Judgement = says_right
    verify: str = "verify"
    refine: str = "refine"
    output: str = "output"
    question: Callable[[Problem], str] = question_line
    comparison: str = "right:{step}\n"

    def annotate(self, trees: Sequence[SearchTree], seed: int = 0) -> datasets.Dataset:
        """Annotated solutions with the columns ``problem_id``, ``kind``, ``text``, ``ids`` (question
        included) and ``learned`` (one flag an id).

        Raises ``ValueError`` if no tree has a right path.
        """
        finished: list[_Draft] = []
        unchecked: list[_Draft] = []
        for tree in trees:
            rng = Random(f"warm-up/{seed}/{tree.problem.id}")
            right, wrong = _ends(tree)
            rng.shuffle(right)
            rng.shuffle(wrong)
            right = sorted(_distinct(tree, right), key=lambda end: -_least_sure_step(tree, end))
            finished += [_Draft(tree, "path", self._path(tree, end)) for end in right[: self.paths]]
            unchecked += islice(self._checked(tree, right, rng), self.checks)
            unchecked += islice(self._merged(tree, right, wrong), self.checks)
        if not finished:
            raise ValueError(
                f"none of {len(trees)} trees has a right path: search more rollouts or easier problems"
            )
        finished += self._ask_for_checks(unchecked, Random(f"warm-up/{seed}"))
        return datasets.Dataset.from_list([self._row(draft) for draft in finished])

    def _ask_for_checks(self, drafts: Sequence[_Draft], rng: Random) -> Iterator[_Draft]:
        """The drafts with their checks written by the model, where it said what the tree says."""
        replies = self.policy.ask(
            [draft.state for draft in drafts if draft.state],
            self.verify,
            hints=[draft.hint for draft in drafts],
            seeds=[rng.getrandbits(63) for _ in drafts],
        )
        for draft, reply in zip(drafts, replies, strict=True):
            if not reply.is_cut and self.judgement(reply.text) is (draft.kind == "checked"):
                steps = list(draft.steps)
                assert draft.check is not None
                steps.insert(draft.check, _Step(self.verify, self.policy.body(reply)))
                yield evolve(draft, steps=tuple(steps))

    def _path(self, tree: SearchTree, end: int) -> tuple[_Step, ...]:
        steps = [self._step(tree, node) for node in tree.path(end)]
        verdict = tree.verdict[end]
        assert verdict is not None
        answer = self.policy.tokenizer.encode(f"\\boxed{{{verdict.answer}}}", add_special_tokens=False)
        return (*steps, _Step(self.output, tuple(answer)))

    def _step(self, tree: SearchTree, node: int) -> _Step:
        segment = tree.segment[node]
        assert segment is not None
        return _Step(segment.function, self.policy.body(segment))

    def _checked(self, tree: SearchTree, right: Sequence[int], rng: Random) -> Iterator[_Draft]:
        for end in right:
            steps = self._path(tree, end)
            path = tree.path(end)
            places = [i for i in range(1, len(steps)) if self._is_legal(steps, i)]
            if places:
                place = rng.choice(places)
                yield _Draft(tree, "checked", steps, place, tree.state(path[place - 1]))

    def _merged(self, tree: SearchTree, right: Sequence[int], wrong: Sequence[int]) -> Iterator[_Draft]:
        for end in wrong:
            wrong_node = _where_it_left(tree, end)
            if wrong_node is None:
                continue
            fork = tree.parent[wrong_node]
            shared = tree.path(fork)
            for right_end in right:
                path = tree.path(right_end)
                if path[: len(shared)] != shared:
                    continue
                slip = self._step(tree, wrong_node)
                branch = path[len(shared) :]
                like = [n for n in branch if self._step(tree, n).function == slip.function]
                mend = like[0] if like else branch[0]
                steps = (
                    *(self._step(tree, node) for node in shared),
                    evolve(slip, is_learned=False),
                    evolve(self._step(tree, mend), function=self.refine),
                    *self._path(tree, right_end)[len(shared) + branch.index(mend) + 1 :],
                )
                place = len(shared) + 1
                if self._is_legal(steps, place):
                    hint = self.comparison.format(step=tree.text(mend))
                    yield _Draft(tree, "merged", steps, place, tree.state(wrong_node), hint)
                    break

    def _is_legal(self, steps: Sequence[_Step], check: int) -> bool:
        names = [step.function for step in steps]
        names.insert(check, self.verify)
        return self.tokens.grammar.violation(names) is None

    def _row(self, draft: _Draft) -> dict[str, Any]:
        tokenizer = self.policy.tokenizer
        ids = list(tokenizer.encode(self.question(draft.tree.problem), add_special_tokens=False))
        learned = [False] * len(ids)
        for step in draft.steps:
            encoded = self.tokens.encode([Step(step.function, step.body)])
            ids += encoded
            learned += [step.is_learned] * len(encoded)
        return {
            "problem_id": draft.tree.problem.id,
            "kind": draft.kind,
            "text": tokenizer.decode(ids),
            "ids": ids,
            "learned": learned,
        }


def _ends(tree: SearchTree) -> tuple[list[int], list[int]]:
    """Ends of right and of wrong rollouts; those that were not judged are neither."""
    scored = [
        (node, v.score) for node in tree.ends() if (v := tree.verdict[node]) and v.score is not None
    ]
    return [n for n, score in scored if score == 1], [n for n, score in scored if score == 0]


def _distinct(tree: SearchTree, ends: Sequence[int]) -> list[int]:
    """One end for each different text of a path."""
    return list({tuple(tree.text(n) for n in tree.path(end)): end for end in ends}.values())


def _least_sure_step(tree: SearchTree, end: int) -> float:
    """The smallest log-probability of a step's body on the way to an end."""
    return min(sum(segment.log_probs) for segment in tree.solution(end).steps)


def _where_it_left(tree: SearchTree, end: int) -> int | None:
    """The first step on the way to a wrong end below which no rollout was right, if a rollout
    through its parent was."""
    path = tree.path(end)
    wrong = [node for node in path if tree.total[node] == 0]
    return wrong[0] if wrong and tree.total[tree.parent[wrong[0]]] > 0 else None
