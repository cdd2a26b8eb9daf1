"""Equal parts have equal fingerprints in every process; different ones differ, and it is said where."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import UserList
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rftt import MCTS, BeamSearch
from rftt.fingerprint import difference, fingerprint
from rftt.search.scores import mean_log_prob, verifier_score
from rftt.search.strategies import puct, uct

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Plain:
    """A class without a description of its own."""

    def __init__(self, weight: float, rule: Any = uct) -> None:
        self.weight, self._rule = weight, rule

    def __call__(self, *_: object) -> float:
        return self.weight

    def score(self, *_: object) -> float:
        return self.weight


class Own(Plain):
    def __fingerprint__(self) -> dict[str, float]:
        return {"weight": self.weight}


class OwnList(UserList[int]):
    """A sequence with a description of its own."""

    name = "a"

    def __fingerprint__(self) -> dict[str, str]:
        return {"name": self.name}


class Scaled(MCTS):
    """A subclass that keeps more than its fields."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        object.__setattr__(self, "scale", scale)


class Caches(Plain):
    rule = lambda self: 0  # noqa: E731

    @cached_property
    def double(self) -> float:
        return 2 * self.weight


@given(values, values)
def test_data_is_told_apart_and_survives_json(a: Any, b: Any) -> None:
    one, other = (json.loads(json.dumps(fingerprint(value))) for value in (a, b))
    assert (difference(one, other) is None) == (one == other)
    assert difference(one, json.loads(json.dumps(fingerprint(a)))) is None


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        (Plain(1.0), Plain(2.0), "weight was 1.0 and is 2.0"),
        (Plain(1.0), Plain(1.0, puct), "_rule was"),
        (partial(pow, 2), partial(pow, 3), r"args\[0\] was 2 and is 3"),
        (partial(pow, exp=2), partial(pow, exp=3), "keywords.exp was 2 and is 3"),
        (Plain(1.0).score, Plain(2.0).score, "of.weight"),
        (BeamSearch(score=mean_log_prob), BeamSearch(score=verifier_score), "score was"),
        (MCTS(exploration=1.0), MCTS(exploration=2.0), "exploration.value"),
        (torch.zeros(3, 4), torch.zeros(4, 3), "shape"),
        (torch.zeros(300), torch.ones(300), "sample"),
        (np.zeros(3), np.ones(3), "sample"),
        (Own(1.0, rule=lambda: 0), Own(2.0), "weight was 1.0"),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), "weight.sample"),
        (Random(1), Random(2), r"state\[1\]"),
        (torch.float32, torch.bfloat16, "torch.float32"),
        (Scaled(1.0), Scaled(2.0), "scale was 1.0 and is 2.0"),
        ([None], [], r"\[0\] was None and is missing"),
        ({"a": None}, {}, "a was None and is missing"),
    ],
)
def test_parts_are_compared_and_the_difference_named(a: Any, b: Any, where: str) -> None:
    assert difference(fingerprint(a), fingerprint(a)) is None
    found = difference(fingerprint(a), fingerprint(b))
    assert found is not None
    assert re.search(where, found), found


def _local() -> Any:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (lambda: 0, "a lambda"),
        (_local(), "a local function"),
        ({"rule": lambda: 0}, r"\['rule'\] is a lambda"),
        (Plain(1.0, lambda: 0), "_rule is a lambda"),
        (partial(lambda x: x, 1), "func is a lambda"),
        (Caches(1.0).rule, "a lambda"),
        (Plain(1.0, object()), "_rule is a builtins.object, which cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_reason(value: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        fingerprint(value)


def test_a_class_that_describes_itself_is_believed_whatever_else_it_is() -> None:
    assert fingerprint(OwnList([1, 2])) == fingerprint(OwnList([3]))
    assert fingerprint(OwnList([1]))["name"] == "a"


def test_reading_a_cached_property_changes_nothing() -> None:
    value = Caches(1.0)
    before = fingerprint(value)
    assert value.double == 2.0
    assert fingerprint(value) == before


def test_a_value_that_holds_itself_is_refused() -> None:
    loop = Plain(1.0)
    loop._rule = loop
    with pytest.raises(ValueError, match="_rule holds itself"):
        fingerprint(loop)


def test_other_processes_agree() -> None:
    code = (
        "import json, rftt; from rftt.fingerprint import fingerprint;"
        "print(json.dumps(fingerprint([rftt.MCTS(), {'b', 'a', 'c'}, rftt.BeamSearch()])))"
    )
    replies = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=Path.cwd(),
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(replies) == 1
