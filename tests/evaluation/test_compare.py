"""Strategies side by side: scores, paired tests, equal tokens, groups, and what is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import evolve, frozen

from rftt import (
    MCTS,
    BestOfN,
    Budget,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    SamplingParams,
    SearchConfig,
    State,
    Step,
    Verdict,
    Verifier,
)
from rftt.evaluation.compare import Arm, compare
from rftt.evaluation.intervals import wilson
from rftt.evaluation.paired import mcnemar
from rftt.evaluation.report import Report
from rftt.evaluation.results import Evaluation, Result, Rollout
from rftt.evaluation.storage import load_report, report_to_json
from rftt.evaluation.table import markdown
from rftt.testing.finite.tabular import Reply, TabularPolicy


class _Counted(TabularPolicy):
    """Counts its calls, on the class: what is counted is no setting."""

    calls: ClassVar[int] = 0

    def extend(self, requests: Sequence[GenerationRequest]) -> list[list[Step]]:
        type(self).calls += 1
        return super().extend(requests)


class _Tempered(TabularPolicy):
    """Says what it samples with, as policies over a sampler do."""

    def __init__(self, temperature: float) -> None:
        super().__init__(DICE.grammar, DICE.table)
        self.sampling_params = SamplingParams(temperature)


DICE = _Counted(
    Grammar.default(),
    {
        (): [
            Reply("next_step", "so \\boxed{1}", 0.5),
            Reply("analysis", "first halve it", 0.5),
        ],
        ("first halve it",): [
            Reply("next_step", "so \\boxed{2}", 0.8),
            Reply("next_step", "so \\boxed{1}", 0.2),
        ],
    },
)
PROBLEMS = [
    Problem(f"p{i}", "?", str(1 + i % 2), {"level": 10 - i % 3, **({"odd": True} if i % 2 else {})})
    for i in range(20)
]
VERIFIER = MathVerifier()


def _config(rollouts: int) -> SearchConfig:
    return SearchConfig(Budget(rollouts=rollouts))


ARMS = {
    "one": Arm(BestOfN(), DICE, VERIFIER, _config(1)),
    "samples": Arm(BestOfN(), DICE, VERIFIER, _config(6)),
    "mcts 4": Arm(MCTS(expansion="sample"), DICE, VERIFIER, _config(4)),
    "mcts 8": Arm(MCTS(expansion="sample"), DICE, VERIFIER, _config(8)),
}


def test_all_arms_are_scored_on_the_same_problems() -> None:
    report = compare(PROBLEMS, ARMS)
    assert [score.name for score in report.scores()] == [
        "one",
        "samples",
        *(f"samples {kind}@{k}" for kind in ("pass", "majority") for k in (1, 2, 4, 6)),
        "mcts 4",
        "mcts 8",
    ]
    by_name = {score.name: score for score in report.scores()}
    whole = report.arms["samples"]
    assert by_name["samples pass@2"].estimate == whole.pass_at(2)
    assert by_name["samples pass@2"].tokens == pytest.approx(whole.tokens / 20 / 3)
    shares = [by_name[f"samples pass@{k}"].estimate.value for k in (1, 2, 4, 6)]
    assert shares == sorted(shares)
    assert report.score("samples majority@5").estimate == whole.majority_at(5), "for any k"
    with pytest.raises(KeyError, match="no score 'sample'; there are the arms one, samples"):
        report.score("sample")


def _evaluation(marks: str, tokens: int, samples: int = 0) -> Evaluation:
    """An evaluation by so many independent samples, or by a search: 1 is right, all rollouts alike."""
    rollouts = {mark: (Rollout("7", mark == "1", None, 0),) * max(1, samples) for mark in set(marks)}
    results = tuple(
        Result(f"p{place}", 0, "7", mark == "1", tokens, rollouts[mark])
        for place, mark in enumerate(marks)
    )
    return Evaluation(results, independent=samples > 0)


def test_arms_are_compared_with_the_first_and_searches_at_equal_tokens() -> None:
    report = Report(
        {
            "greedy": _evaluation("1110000000", tokens=10, samples=1),
            "samples": _evaluation("1111000000", tokens=160, samples=16),
            "search": _evaluation("0111111100", tokens=52),
        }
    )
    names = [(c.first, c.second) for c in report.comparisons()]
    # 52 tokens are those of 5.2 samples of 10.
    assert names == [
        ("greedy", "samples"),
        ("greedy", "search"),
        ("samples majority@5", "search"),
    ]
    found = report.compare("samples majority@5", "search")
    assert found.token_ratio == pytest.approx(52 / 50)
    assert found.difference.value == pytest.approx(0.3)
    assert found.difference.p_value == mcnemar(1, 4)
    assert (found.difference.first_better, found.difference.second_better) == (1, 4)


def test_more_tokens_than_all_samples_have_are_compared_with_all() -> None:
    report = Report(
        {"samples": _evaluation("10", 40, samples=4), "search": _evaluation("11", tokens=500)}
    )
    assert report.at_equal_tokens("search") == ["samples majority@4"]
    assert report.compare("samples majority@4", "search").token_ratio == 12.5


def test_groups_are_those_of_the_metadata(caplog: pytest.LogCaptureFixture) -> None:
    report = compare(PROBLEMS, {"one": ARMS["one"]}, by=("level", "odd"))
    marks = report.arms["one"].marks
    found = report.by_group("level")
    assert list(found) == ["8", "9", "10"], "in the order of numbers"
    for level, scores in found.items():
        own = [m for m, p in zip(marks, PROBLEMS, strict=True) if str(p.metadata["level"]) == level]
        assert (scores["one"].low, scores["one"].high) == wilson(sum(own), len(own))
    assert set(report.by_group("odd")) == {"True", "(none)"}
    assert "10 of 20 problems have no odd" in caplog.text
    with pytest.raises(KeyError, match="no group 'subject'; there are: level, odd"):
        report.by_group("subject")
    with pytest.raises(
        ValueError, match="no problem has 'subject' in its metadata; there are: level, odd"
    ):
        compare(PROBLEMS, {"one": ARMS["one"]}, by=("subject",))


# -- arms that cannot be compared ---------------------------------------------------------------------


@frozen
class _Scores(Verifier):
    """Scores every answer, without its gold one."""

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [Verdict(0.5, state.steps[-1].text[-2]) for state in states]


def test_arms_are_marked_alike_or_refused() -> None:
    arms = {"one": ARMS["one"], "scored": Arm(BestOfN(), DICE, _Scores(), _config(3))}
    with pytest.raises(
        ValueError, match=r"'one' and 'scored' have different verifiers \(verifier\.class"
    ):
        compare(PROBLEMS, arms)
    report = compare(PROBLEMS, arms, marker=VERIFIER)
    assert "scored best@2" in {score.name for score in report.scores()}
    same = {"one": ARMS["one"], "two": evolve(ARMS["one"], verifier=MathVerifier())}
    assert list(compare(PROBLEMS, same).arms) == ["one", "two"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "samples pass@2", ".hidden"])
def test_names_must_do_for_folders(name: str) -> None:
    with pytest.raises(ValueError, match="the name is a folder's too"):
        compare(PROBLEMS, {name: ARMS["one"]})


def test_there_must_be_an_arm() -> None:
    with pytest.raises(ValueError, match="there are no arms"):
        compare(PROBLEMS, {})


@pytest.mark.parametrize(
    ("name", "temperature", "rollouts", "warning"),
    [
        ("greedy", 0.7, 1, "'greedy': its policy samples at temperature 0.7; a greedy one needs 0"),
        ("vote", 0.0, 3, "'vote': at temperature 0 all 3 samples of a problem are the same"),
        ("greedy", 0.0, 1, None),
        ("vote", 0.7, 3, None),
    ],
)
def test_temperatures_that_do_not_fit_are_warned_of(
    name: str, temperature: float, rollouts: int, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        compare(PROBLEMS, {name: Arm(BestOfN(), _Tempered(temperature), VERIFIER, _config(rollouts))})
    assert [record.getMessage() for record in caplog.records] == (
        [] if warning is None else [f"arm {warning}"]
    )


# -- what is written ----------------------------------------------------------------------------------


def test_a_folder_holds_all_that_is_needed_to_repeat_it(tmp_path: Path) -> None:
    report = compare(PROBLEMS, ARMS, by=("level",), directory=tmp_path, seed=4)
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["scores"][0]["name"] == "one"
    one = data["arms"]["one"]
    assert set(one["settings"]) == {
        "searcher", "policy", "verifier", "choose", "marker", "seeds", "config", "problems"
    }  # fmt: skip
    assert list(one["settings"]["problems"]) == [problem.id for problem in PROBLEMS]
    assert one["versions"]["rftt"]
    assert [r["right"] for r in one["results"]] == list(report.arms["one"].marks)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(report)
    assert (tmp_path / "tokens.png").read_bytes().startswith(b"\x89PNG")
    loaded = load_report(tmp_path / "report.json")
    assert loaded == report
    assert json.loads(json.dumps(report_to_json(loaded))) == data, (
        "figures are made again from the marks"
    )
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ValueError, match=r"report\.json: not a report"):
        load_report(tmp_path / "report.json")


def test_an_arm_can_be_added_and_the_others_are_not_searched_again(tmp_path: Path) -> None:
    compare(PROBLEMS, {"one": ARMS["one"]}, directory=tmp_path)
    calls = _Counted.calls
    added = {"one": ARMS["one"], "two": Arm(BestOfN(), DICE, VERIFIER, _config(2))}
    report = compare(PROBLEMS, added, directory=tmp_path)
    assert _Counted.calls == calls + 1
    assert report == compare(PROBLEMS, added)
    with pytest.raises(
        ValueError, match=r"one.evaluation\.json is of an evaluation with another config"
    ):
        compare(PROBLEMS, {"one": Arm(BestOfN(), DICE, VERIFIER, _config(2))}, directory=tmp_path)


def test_the_table_says_what_the_report_does() -> None:
    report = Report(
        {
            "greedy": _evaluation("1110000000", tokens=10, samples=1),
            "search": _evaluation("0111111100", tokens=52),
        },
        groups={"level": ("1",) * 4 + ("2",) * 6},
    )
    # By hand: Wilson's of 3, 7 and 4 of 10 or fewer; McNemar's of 1 and 5 is 2 * 7 / 64.
    assert markdown(report).splitlines()[:6] == [
        "Accuracy on 10 problems, % (95% interval).",
        "",
        "|  | accuracy | tokens a problem | rollouts without an answer, % |",
        "| --- | --- | --- | --- |",
        "| greedy | 30.0 (10.8-60.3) | 10 | 0.0 |",
        "| search | 70.0 (39.7-89.2) | 52 | 0.0 |",
    ]
    (line,) = [line for line in markdown(report).splitlines() if line.startswith("| greedy | search")]
    assert "+40.0" in line
    assert line.endswith("| 0.219 (McNemar, exact) | 1, 5 | 5.20 |")
    assert "| 2 | 6 | 0.0 (0.0-39.0) | 66.7 (30.0-90.3) |" in markdown(report)
