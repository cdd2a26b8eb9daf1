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

A wrong step is there to be read, not to be learned: its ``action_mask`` is false.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

import datasets
from attrs import frozen

from rftt.interfaces import Step
from rftt.policies.prompted import PromptedPolicy
from rftt.problems.problem import BOXED, Problem, question_line
from rftt.search.tree.tree import SearchTree
from rftt.tokens.control import encode_question
from rftt.tokens.functional import FunctionalTokens
from rftt.training.annotated import AnnotatedSolution, UncheckedSolution
from rftt.training.branches import distinct_paths, first_wrong_step, min_step_log_prob, path_ends

_log = logging.getLogger(__name__)

Judgement = Callable[[str], bool | None]


def says_right(reply: str) -> bool | None:
    """Return whether a model's check found the step right, by the words in it; ``None`` if it says
    neither right nor wrong."""
    words = set(re.findall(r"[a-z']+", reply.lower()))
    if words & {"wrong", "incorrect", "not", "mistake", "error", "isn't", "false"}:
        return False
    return True if words & {"right", "correct", "ok", "true", "yes"} else None


@frozen(eq=False)
class WarmUp:
    """Makes annotated solutions from searched trees.

    Attributes:
        policy: the prompted policy that searched; it is asked again for the checks.
        tokens: the functional tokens, in the same tokenizer.
        paths: most right paths to take from one tree: those whose least likely step is likeliest,
            because a path may be right by luck.
        checks: most checked and most merged solutions to take from one tree.
        judgement: reads a check; a solution whose check says the opposite, or nothing, is dropped.
        verify, refine, output: names of the functions that check, correct and state the answer.
        question: the text with which a problem opens a solution. It may differ from the prompted
            policy's, which may hold examples that a tuned model does without.
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
        """Return annotated solutions with the columns ``problem_id``, ``kind``, ``text``, ``ids``
        (question included) and ``action_mask`` (one flag an id). What is left out is counted in the log.

        Raises:
            ValueError: if no tree has a right path.
        """
        annotated: list[AnnotatedSolution] = []
        unchecked: list[UncheckedSolution] = []
        left_out: Counter[str] = Counter()
        for tree in trees:
            rng = Random(f"warm-up/{seed}/{tree.problem.id}")
            ends = path_ends(tree)
            right, wrong = ends.right, ends.wrong
            rng.shuffle(right)
            rng.shuffle(wrong)
            right = sorted(distinct_paths(tree, right), key=lambda end: -min_step_log_prob(tree, end))
            paths = [self._path(tree, end) for end in right[: self.paths]]
            legal = [AnnotatedSolution(tree, "path", steps) for steps in paths if self._is_legal(steps)]
            annotated += legal
            unchecked += islice(self._unchecked_paths(tree, right, rng), self.checks)
            unchecked += islice(self._merged(tree, right, wrong), self.checks)
            left_out["trees without a right path"] += not right
            left_out["rollouts without a score of 1 or 0 or an answer"] += len(ends.neither)
            left_out["paths that break the grammar"] += len(paths) - len(legal)
        if not annotated:
            raise ValueError(
                f"none of {len(trees)} trees has a right path that the grammar allows: search more "
                "rollouts or easier problems"
            )
        annotated += self._ask_for_checks(unchecked, Random(f"warm-up/{seed}"), left_out)
        if counts := [f"{count} {what}" for what, count in left_out.items() if count]:
            _log.info(
                "warm-up: %d solutions of %d trees; left out: %s",
                len(annotated), len(trees), ", ".join(counts),
            )  # fmt: skip
        return datasets.Dataset.from_list([self._row(solution) for solution in annotated])

    def _ask_for_checks(
        self, unchecked: Sequence[UncheckedSolution], rng: Random, left_out: Counter[str]
    ) -> Iterator[AnnotatedSolution]:
        """Let the model write the checks; keep the solutions where it says what the tree says."""
        replies = self.policy.ask(
            [solution.state for solution in unchecked],
            self.verify,
            hints=[solution.hint for solution in unchecked],
            seeds=[rng.getrandbits(63) for _ in unchecked],
        )
        for solution, reply in zip(unchecked, replies, strict=True):
            if reply.truncated:
                left_out["checks that were truncated"] += 1
            elif self.judgement(reply.text) is not (solution.kind == "checked"):
                left_out["checks that do not say what the tree says"] += 1
            else:
                yield solution.add(self._encode(self.verify, self.policy.body(reply)))

    def _path(self, tree: SearchTree, end: int) -> tuple[Step, ...]:
        """Return a right path, with a step that states its answer as the model wrote it."""
        steps = tuple(self._step(tree, node) for node in tree.path(end))
        if steps[-1].terminal:
            return steps
        verdict = tree.verdict[end]
        assert verdict is not None
        answer = self.policy.tokenizer.encode(f"{BOXED}{verdict.answer}}}", add_special_tokens=False)
        return (*steps, self._encode(self.output, answer))

    def _step(
        self, tree: SearchTree, node: int, *, function: str | None = None, is_learned: bool = True
    ) -> Step:
        """Return the step of a node with functional tokens, perhaps those of another function."""
        step = tree.step[node]
        assert step is not None
        return self._encode(function or step.function, self.policy.body(step), is_learned)

    def _encode(self, function: str, body: Sequence[int], is_learned: bool = True) -> Step:
        ids = self.tokens.encode(function, body)
        return Step(
            function=function,
            text=str(self.policy.tokenizer.decode(list(body))),
            ids=ids,
            log_probs=(0.0,) * len(ids),
            action_mask=(is_learned,) * len(ids),
            terminal=self.tokens.grammar.is_terminal(function),
            body_start=1,
        )

    def _unchecked_paths(
        self, tree: SearchTree, right: Sequence[int], rng: Random
    ) -> Iterator[UncheckedSolution]:
        """Yield right paths with a place for a check after one of their steps."""
        for end in right:
            steps = self._path(tree, end)
            path = tree.path(end)
            places = [i for i in range(1, len(steps)) if self._is_legal(steps, check=i)]
            if places:
                place = rng.choice(places)
                yield UncheckedSolution(tree, "checked", steps, place, tree.state(path[place - 1]))

    def _merged(
        self, tree: SearchTree, right: Sequence[int], wrong: Sequence[int]
    ) -> Iterator[UncheckedSolution]:
        """Yield wrong steps followed by the right step as their correction, with a place for a check."""
        for end in wrong:
            wrong_node = first_wrong_step(tree, end)
            if wrong_node is None:
                continue
            shared = tree.path(tree.parent[wrong_node])
            wrong_step = self._step(tree, wrong_node, is_learned=False)
            for right_end in right:
                path = tree.path(right_end)
                if path[: len(shared)] != shared:
                    continue
                branch = path[len(shared) :]
                alike = [n for n in branch if self._step(tree, n).function == wrong_step.function]
                correction = alike[0] if alike else branch[0]
                steps = (
                    *(self._step(tree, node) for node in shared),
                    wrong_step,
                    self._step(tree, correction, function=self.refine),
                    *self._path(tree, right_end)[len(shared) + branch.index(correction) + 1 :],
                )
                place = len(shared) + 1
                if self._is_legal(steps, check=place):
                    hint = self.comparison.format(step=tree.text(correction))
                    yield UncheckedSolution(tree, "merged", steps, place, tree.state(wrong_node), hint)
                    break

    def _is_legal(self, steps: Sequence[Step], check: int | None = None) -> bool:
        """Return whether the grammar allows the steps, with a check at a place if one is given."""
        names = [step.function for step in steps]
        if check is not None:
            names.insert(check, self.verify)
        return self.tokens.grammar.violation(names) is None

    def _row(self, solution: AnnotatedSolution) -> dict[str, Any]:
        tokenizer, problem = self.policy.tokenizer, solution.tree.problem
        ids = list(encode_question(tokenizer, self.question(problem)))
        action_mask = [False] * len(ids)
        for step in solution.steps:
            ids += step.ids
            action_mask += step.action_mask
        return {
            "problem_id": problem.id,
            "kind": solution.kind,
            "text": tokenizer.decode(ids),
            "ids": ids,
            "action_mask": action_mask,
        }
