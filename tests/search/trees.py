"""Trees to look at, export and merge: what random strategies find in random finite problems, and trees
whose texts would break out of what they are written into."""

from __future__ import annotations

from hypothesis import strategies as st

from rftt import (
    Budget,
    Grammar,
    MathVerifier,
    Problem,
    SearchConfig,
    Searcher,
    SearchTree,
    Step,
    Verdict,
    run_search,
)
from rftt.testing.finite.tabular import TabularPolicy
from tests.strategies import policies, problems, searchers

MAX_DEPTH = 6

HOSTILE = (
    'a </script><script>document.title = "taken"</script>',
    "<!-- <script> -->",
    "{{tree}} {{script}} \\u003c ${1} `",
    "\"quotes\" 'and' & &amp; &lt;",
    "two\nlines\tand \u2028 \u202e",
    "数学 naïve 🎈 \x00 \x1b[31m",
    "<img src=x onerror=\"document.title='taken'\">",
)


def searched(policy: TabularPolicy, searcher: Searcher, seed: int, rollouts: int) -> SearchTree:
    """One search of the one problem there is."""
    (tree,) = run_search(
        problems(1), searcher, policy, MathVerifier(),
        SearchConfig(Budget(rollouts=rollouts), seed=seed, max_depth=MAX_DEPTH),
    )  # fmt: skip
    return tree


@st.composite
def searches(
    draw: st.DrawFn, most: int = 1, by: st.SearchStrategy[Searcher] = searchers
) -> tuple[TabularPolicy, list[SearchTree]]:
    """A policy, and one to ``most`` trees that were searched with it, all of one problem."""
    policy = draw(policies())
    trees = [
        searched(policy, draw(by), draw(st.integers(0, 9)), draw(st.integers(1, 12)))
        for _ in range(draw(st.integers(1, most)))
    ]
    return policy, trees


def grown(texts: list[str]) -> SearchTree:
    """A tree that holds these texts: each one step on from the question, and one deeper."""
    tree = SearchTree(Problem("p </title>", f"What? {texts[0]}", "1"), Grammar.default())
    for number, text in enumerate(texts):
        step = tree.attach(0, Step("analysis", text, [1], [-0.5], [True], False))
        tree.prior[step] = {"next_step": -0.1, "subquestion": -2.4, "direct_answer": float("-inf")}
        end = tree.attach(step, Step("next_step", text, [2], [-0.5], [True], True, number == 1))
        score = None if number == 0 else number % 2 / 1
        tree.verdict[end] = Verdict(score, None if number == 1 else text, text)
        tree.backup(end, score)
    return tree
