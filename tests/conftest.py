"""Tensor shapes and types are checked at run time while tests run."""

import itertools
import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

if "PYTEST_XDIST_WORKER" in os.environ:
    # Side by side, workers of several threads each hold one another up. Torch is not yet imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook(
    [
        "rftt.learners",
        "rftt.samplers.rng",
        "rftt.samplers.transformers.sampler",
        "rftt.tokens.automaton",
    ],
    "beartype.beartype",
)

# Machines differ in speed; a slow one is not a wrong one.
settings.register_profile("rftt", deadline=None)
settings.load_profile("rftt")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where models are."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_search_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test be the first with a search that has no answer: of later ones few are warned of."""
    monkeypatch.setattr("rftt.search.answers.unanswered._searches", itertools.count(1))
