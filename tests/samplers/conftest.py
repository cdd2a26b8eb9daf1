"""What tests of vLLM share: one engine for most of them, in the process that they run in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rftt import SamplingParams
from tests.samplers.vllm_pair import Pair, set_params


@pytest.fixture(scope="session")
def engine_in_this_process() -> Iterator[None]:
    """The engine in this process, and nothing compiled: that takes longer than all of the tests."""
    import torch._dynamo

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        patch.setattr(torch._dynamo.config, "disable", True)
        # vLLM takes this function away from the process that it runs in.
        patch.setattr(torch, "set_num_threads", torch.set_num_threads)
        yield


@pytest.fixture(scope="session")
def shared_pair(engine_in_this_process: None) -> Pair:
    return Pair()


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    yield shared_pair
    set_params(shared_pair, SamplingParams())
