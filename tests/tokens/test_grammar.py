"""The grammar against the paper's table, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rftt import Function, Grammar
from tests.strategies import grammars

PAPER = {
    None: "clarify analysis subquestion next_step",
    "clarify": "analysis subquestion next_step direct_answer",
    "analysis": "subquestion next_step direct_answer",
    "subquestion": "next_step direct_answer",
    "next_step": "next_step direct_answer subquestion verify output",
    "direct_answer": "output verify",
    "verify": "next_step refine direct_answer subquestion verify output",
    "refine": "next_step direct_answer output subquestion verify",
    "output": "",
}


@pytest.mark.parametrize("last", PAPER)
def test_default_is_the_paper_s_table(last: str | None) -> None:
    assert set(Grammar.default().legal(last)) == set(PAPER[last].split())


def test_only_output_is_terminal() -> None:
    grammar = Grammar.default()
    assert [name for name in grammar.functions if grammar.is_terminal(name)] == ["output"]


@given(grammars(), st.data())
def test_a_walk_along_legal_followers_has_no_violation(grammar: Grammar, data: st.DataObject) -> None:
    path: list[str] = []
    while legal := grammar.legal(path[-1] if path else None):
        assert grammar.violation(path) is None
        path.append(data.draw(st.sampled_from(legal)))
        if len(path) > 8:
            return
    assert grammar.is_terminal(path[-1])


@given(grammars(), st.data())
def test_a_violation_names_the_first_bad_step(grammar: Grammar, data: st.DataObject) -> None:
    path = [data.draw(st.sampled_from(grammar.start))]
    illegal = sorted(set(grammar.functions) - set(grammar.legal(path[0])))
    if illegal:
        path.append(data.draw(st.sampled_from(illegal)))
        assert (grammar.violation(path) or "").startswith("step 1:")


def _two(**changes: object) -> Grammar:
    arguments: dict[str, object] = {
        "functions": [Function("go", "go on"), Function("stop", "stop here")],
        "start": ["go"],
        "followers": {"go": ["go", "stop"]},
    }
    return Grammar(**arguments | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"followers": {"go": ["fly"]}}, "'?go'? may be followed by 'fly', which is unknown"),
        ({"followers": {"fly": ["go"]}}, "'fly', which is not a function"),
        ({"start": ["fly"]}, "the question may be followed by 'fly'"),
        ({"followers": {"go": ["go"]}}, r"\['stop'\] cannot be reached"),
        ({"followers": {"go": ["stop"], "stop": ["go"]}}, "no function is terminal"),
        ({"functions": [Function("go", "go"), Function("go", "run")]}, "share a name"),
    ],
)
def test_bad_grammars_say_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _two(**changes)


@pytest.mark.parametrize("name", ["", "Go", "go on", "<go>", "9lives"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a tag name"):
        Function(name, "go on")


def test_unknown_function_is_named() -> None:
    with pytest.raises(ValueError, match="'fly' is not a function"):
        Grammar.default().legal("fly")
