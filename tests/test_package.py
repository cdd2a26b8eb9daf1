"""The public names, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import rftt

NAMES = [
    "Policy", "Searcher", "Verifier", "Learner", "Sampler", "MCTS", "BeamSearch", "BestOfN",
    "FunctionalPolicy", "PromptedPolicy", "TransformersSampler", "MathVerifier", "SupervisedLearner",
    "ReinforcePlusPlus", "Tuner", "TreeRollouts", "SearchTree", "Grammar", "Function",
    "FunctionalTokens", "Budget", "SearchConfig", "SamplingParams", "LossOutput", "Problem",
    "run_search", "resume_search",
]  # fmt: skip


def test_public_names() -> None:
    for name in NAMES:
        assert getattr(rftt, name) is not None
    assert set(NAMES) <= set(dir(rftt))


def test_every_public_name_can_be_imported() -> None:
    for name in rftt.__all__:
        assert getattr(rftt, name) is not None


def test_there_are_few_public_names_and_a_version() -> None:
    assert len(rftt.__all__) <= 40
    assert rftt.__version__.count(".") == 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        rftt.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_import_is_quick_and_brings_neither_vllm_nor_torch() -> None:
    code = "import rftt, sys; print(*sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert time.monotonic() - start < 1.5


def test_search_needs_no_torch() -> None:
    code = (
        "import rftt, sys; rftt.MCTS; rftt.BeamSearch; rftt.BestOfN; rftt.run_search;"
        "rftt.majority; import rftt.testing; rftt.testing.TabularPolicy; rftt.MathVerifier;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
