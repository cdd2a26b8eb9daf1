"""A server's scores are those of its model; whatever else it says is an abstention, in time."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import requests
from hypothesis import given, settings

from rftt import BestOfN, Budget, Problem, SearchConfig, State, run_search
from rftt.aggregation import mean
from rftt.fingerprint import difference, fingerprint
from rftt.testing import check_verifier
from rftt.verifiers.process.model import ProcessRewardModel
from rftt.verifiers.process.server import ProcessRewardServer
from tests.models import functional_policy
from tests.verifiers.pooling_server import Pooling, pooling_server
from tests.verifiers.reward_models import reward_model, state, states

PARTS = reward_model("qwen")
HERE = ProcessRewardModel(PARTS.model, PARTS.tokenizer, PARTS.format)
TAG = PARTS.tokenizer.convert_tokens_to_ids("<extra_0>")
ONE = state(["2*3=6", "6+1=7"])


def _client(url: str, **settings: Any) -> ProcessRewardServer:
    quick: dict[str, Any] = {"retries": 2, "pause": 0.01, "timeout": 5.0, "limit": 20.0}
    return ProcessRewardServer(url, "prm", PARTS.tokenizer, PARTS.format, **quick | settings)


@contextmanager
def _served(
    *, model: Any = PARTS.model, step_tag: int | None = TAG, client: Any = None, **faults: Any
) -> Iterator[tuple[ProcessRewardServer, Pooling]]:
    pooling = Pooling(model, step_tag, **faults)
    with pooling_server(pooling) as url:
        yield _client(url, **(client or {})), pooling


# -- scores ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["STEP", "ALL"])
def served(request: pytest.FixtureRequest) -> Iterator[ProcessRewardServer]:
    with _served(step_tag=TAG if request.param == "STEP" else None) as (client, _):
        yield client


@settings(max_examples=10)
@given(states=states())
def test_scores_are_those_of_the_model(served: ProcessRewardServer, states: list[State]) -> None:
    here = HERE.judge(states)
    for verdict, expected in zip(served.judge(states), here, strict=True):
        assert verdict.step_scores == pytest.approx(expected.step_scores, abs=2e-5)
        assert verdict.score == pytest.approx(expected.score, abs=2e-5)


def test_what_the_server_is_sent() -> None:
    with _served(client={"key": "secret"}) as (client, pooling):
        client.judge([ONE])
    (request,) = pooling.requests
    assert request["input"] == list(PARTS.format.lay_out(
        PARTS.tokenizer, ONE.problem.question, ["2*3=6", "6+1=7"]
    ).ids)  # fmt: skip
    assert (request["model"], request["task"], request["path"]) == ("prm", "token_classify", "/pooling")
    assert request["use_activation"] is True
    assert request["headers"]["Authorization"] == "Bearer secret"


def test_requests_are_in_flight_together_and_no_more_than_allowed() -> None:
    with _served(seconds=0.05, client={"concurrency": 4}) as (client, pooling):
        verdicts = client.judge([state([f"2*{n}={2 * n}"]) for n in range(12)])
    assert all(verdict.score is not None for verdict in verdicts)
    assert pooling.most_at_once == 4


@pytest.mark.parametrize(
    ("change", "label"),
    [
        (lambda rows: [[row[1]] for row in rows], 1),
        (lambda rows: [row[1] for row in rows], 1),
        (lambda rows: [row[::-1] for row in rows], 0),
        (lambda rows: [[0, *row] for row in rows], 2),
    ],
)
def test_other_rows_of_probabilities(change: Any, label: int) -> None:
    with _served(change=change, client={"label": label}) as (client, _):
        (verdict,) = client.judge([ONE])
    assert verdict.step_scores == pytest.approx(HERE.judge([ONE])[0].step_scores, abs=2e-5)


def test_a_label_that_rows_do_not_have_is_no_score() -> None:
    with _served(client={"label": 2}) as (client, _):
        (verdict,) = client.judge([ONE])
    assert verdict.score is None
    assert "IndexError" in verdict.reason


# -- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[:-1], "1 scores for 2 steps"),
        (lambda rows: [*rows, rows[0]], "3 scores for 2 steps"),
        (lambda rows: [], "0 scores for 2 steps"),
        (lambda rows: [rows[0], [math.nan, math.nan]], "nan] is no probability"),
        (lambda rows: [rows[0], [-math.inf, math.inf]], "is no probability"),
        (lambda rows: [rows[0], [-3.5, 4.5]], "[-3.5, 4.5] is no probability"),
        (lambda rows: [rows[0], [0.9, 0.9]], "[0.9, 0.9] do not add up to 1"),
        (lambda rows: [rows[0], ["0.5", 0.5]], "is no probability"),
        (lambda rows: [rows[0], [True, False]], "is no probability"),
        (lambda rows: [rows[0], []], "[] do not add up to 1"),
        (lambda rows: [rows[0], None], "None is no probability"),
        (lambda rows: "AAAA", "4 scores for 2 steps"),
        (lambda rows: None, "TypeError"),
        (lambda rows: {"0": 1}, "1 scores for 2 steps"),
    ],
)
def test_scores_that_are_wrong_are_no_scores(change: Any, reason: str) -> None:
    with _served(change=change) as (client, pooling):
        (verdict,) = client.judge([ONE])
        assert verdict.score is None
        assert verdict.step_scores is None
        assert reason in verdict.reason
        assert client.url in verdict.reason
        assert client.abstained == 1
    assert len(pooling.requests) == 1, "they would be the same the next time"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"data": [{"data": [[0.1, 0.9]', b"[" * 100_000, b"\xff\xfe{}"],
)
def test_what_is_not_json_is_asked_for_again(body: bytes) -> None:
    with _served(body=body) as (client, pooling):
        (verdict,) = client.judge([ONE])
    assert verdict.score is None
    assert "failed 3 times" in verdict.reason
    assert len(pooling.requests) == 3


@pytest.mark.parametrize(
    "body", [b"null", b"3", b'{"error": "x"}', b'{"data": []}', b'{"data": [1, 2]}']
)
def test_json_that_is_something_else(body: bytes) -> None:
    with _served(body=body) as (client, _):
        (verdict,) = client.judge([ONE])
    assert verdict.score is None
    assert "gave no step scores" in verdict.reason


@pytest.mark.parametrize("status", [400, 401, 404, 422, 307])
def test_an_error_of_the_request_is_final_and_in_the_servers_words(status: int) -> None:
    words = "This model's maximum context length is 4096 tokens."
    with _served(statuses=[status] * 9, words=words) as (client, pooling):
        (verdict,) = client.judge([ONE])
    assert verdict.score is None
    assert verdict.reason == f"{client.url} answered with error {status}: {words}"
    assert len(pooling.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_error_that_may_pass_is_tried_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with _served(statuses=[status] * 2) as (client, pooling):
        (verdict,) = client.judge([ONE])
    assert verdict.step_scores == pytest.approx(HERE.judge([ONE])[0].step_scores, abs=2e-5)
    assert len(pooling.requests) == 3
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(": try ")[1].split(" failed")[0] for line in lines] == ["1 of 3", "2 of 3"]
    assert client.abstained == 0


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_is_down_is_counted_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    client = _client(f"http://127.0.0.1:{_closed_port()}/pooling", retries=0)
    verdicts = client.judge([ONE] * 10)
    assert all(verdict.score is None for verdict in verdicts)
    assert all("failed 1 times, at last with ConnectionError" in v.reason for v in verdicts)
    assert client.abstained == 10
    told = [r.getMessage() for r in caplog.records if "abstained" in r.getMessage()]
    assert [line.split(" states")[0] for line in told] == [
        "ProcessRewardServer abstained from 1", "ProcessRewardServer abstained from 10"
    ]  # fmt: skip
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_one_state_at_fault_costs_no_other_its_scores() -> None:
    bad = state(["6", "7"], id="bad")
    length = len(PARTS.format.lay_out(PARTS.tokenizer, bad.problem.question, ["6", "7"]).ids)
    with _served() as (client, pooling):
        rows = pooling.rows
        pooling.rows = lambda ids: rows(ids)[: 1 if len(ids) == length else 9]  # type: ignore[method-assign]
        verdicts = client.judge([ONE, bad, ONE, state([])])
    assert [verdict.score is None for verdict in verdicts] == [False, True, False, True]
    assert client.abstained == 1


def test_a_slow_server_is_waited_for_no_longer_than_the_limit() -> None:
    with _served(seconds=1.5, client={"limit": 0.4}) as (client, _):
        start = time.monotonic()
        verdicts = client.judge([ONE] * 50)
        assert time.monotonic() - start < 1.0
    assert {verdict.reason for verdict in verdicts} == {f"{client.url} gave no scores within 0.4 s"}
    assert client.abstained == 50


def test_a_server_that_drips_is_waited_for_no_longer_than_the_limit() -> None:
    with _served(drip=True, client={"limit": 0.7, "timeout": 0.5}) as (client, _):
        start = time.monotonic()
        (verdict,) = client.judge([ONE])
        assert time.monotonic() - start < 1.2
    assert verdict.score is None


def test_pauses_between_tries_end_with_the_limit() -> None:
    with _served(statuses=[503] * 99, client={"pause": 30.0, "limit": 0.4}) as (client, _):
        start = time.monotonic()
        (verdict,) = client.judge([ONE])
        assert time.monotonic() - start < 1.0
    assert "within 0.4 s" in verdict.reason


def test_no_thread_outlives_its_call() -> None:
    with _served(statuses=[503] * 99, client={"pause": 30.0, "limit": 0.3}) as (client, _):
        before = set(threading.enumerate())
        client.judge([ONE] * 3)
        time.sleep(0.2)
        left = [t for t in threading.enumerate() if t not in before and "work" in t.name]
    assert not left


def test_a_server_that_stalls_cannot_hold_up_an_exit() -> None:
    with _served(drip=True, client={"limit": 0.2}) as (client, _):
        before = set(threading.enumerate())
        client.judge([ONE])
        left = [t for t in threading.enumerate() if t not in before and "work" in t.name]
    assert [thread.daemon for thread in left] == [True]


def test_an_error_of_this_program_is_no_abstention(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(requests.Session, "post", broken)
    with pytest.raises(AssertionError, match="a fault of ours"):
        _client("http://127.0.0.1:1/pooling").judge([ONE])


def test_a_search_goes_on_without_the_server() -> None:
    policy = functional_policy(brief=True)
    client = _client(f"http://127.0.0.1:{_closed_port()}/pooling", retries=0)
    config = SearchConfig(Budget(rollouts=3), seed=1, max_depth=4, max_tokens=30)
    trees = run_search([Problem("a", "1+1"), Problem("b", "2+2")], BestOfN(), policy, client, config)
    verdicts = [verdict for tree in trees for verdict in tree.verdict if verdict is not None]
    assert verdicts
    assert all(verdict.score is None and verdict.reason for verdict in verdicts)
    assert client.abstained > 0


# -- sharing --------------------------------------------------------------------------------------------


def test_it_keeps_a_verifiers_promises() -> None:
    with _served() as (client, _):
        build = partial(_client, client.url, max_tokens=512, retries=6)
        check_verifier(build, states=[state([f"2*{n}={2 * n}"]) for n in range(4)], tolerance=1e-4)


def test_threads_share_a_server() -> None:
    expected = {n: HERE.judge([state([f"2*{n}={2 * n}"])])[0].score for n in range(8)}
    wrong: list[int] = []
    with _served() as (client, _):

        def judge(n: int) -> None:
            for _ in range(3):
                if client.judge([state([f"2*{n}={2 * n}"])])[0].score != pytest.approx(
                    expected[n], abs=2e-5
                ):
                    wrong.append(n)

        threads = [threading.Thread(target=judge, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_forks_share_a_server() -> None:
    expected = HERE.judge([ONE])[0].score
    with _served() as (client, _):
        assert client.judge([ONE])[0].score == pytest.approx(expected, abs=2e-5)
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                scores = [client.judge([ONE])[0].score for _ in range(3)]
                os._exit(0 if scores == pytest.approx([expected] * 3, abs=2e-5) else 1)
            children.append(child)
        assert client.judge([ONE])[0].score == pytest.approx(expected, abs=2e-5)
        assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0, 0]


def test_a_copy_judges_the_same_and_a_fingerprint_tells() -> None:
    with _served() as (client, _):
        again = pickle.loads(pickle.dumps(client))
        assert again.judge([ONE]) == client.judge([ONE])
        assert difference(fingerprint(client), fingerprint(again)) is None
        assert "secret" not in json.dumps(fingerprint(_client(client.url, key="secret")))
        for part, other in (
            ("url", _client("http://elsewhere/pooling")),
            ("label", _client(client.url, label=0)),
            ("aggregation", _client(client.url, aggregation=mean)),
        ):
            assert (difference(fingerprint(client), fingerprint(other)) or "").startswith(part)


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"retries": -1}, {"label": -1}, {"timeout": 0.0}, {"limit": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        _client("http://localhost/pooling", **wrong)
