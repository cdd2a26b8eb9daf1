"""nano with functional tokens, warmed up on solutions that its teacher writes: no search needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rftt.nano.checkpoint import load_nano
from rftt.nano.teacher import TextSpan, prompt, training_expression, write_trace
from rftt.problems.problem import Problem, question_line
from rftt.tokens.embeddings import initialize_token_embeddings
from rftt.tokens.functional import FunctionalTokens
from rftt.tokens.grammar import Grammar

IGNORED = -100
"""The label that transformers' loss leaves out."""


def annotate(
    spans: Sequence[TextSpan], tokenizer: PreTrainedTokenizerBase, tokens: FunctionalTokens
) -> tuple[list[int], list[int]]:
    """Return the ids and labels of a trace, its prompts replaced by functional tokens.

    A wrong step, which is there to be found, is context and no target; so is the question.
    """
    grammar = tokens.grammar
    functions = {prompt(name, grammar).strip(): name for name in grammar.functions}
    question = question_line(Problem(id="trace", question=spans[0][0]))
    ids = list(tokenizer.encode(question, add_special_tokens=False))
    labels = [IGNORED] * len(ids)
    for (opener, _), (body, is_target) in pairwise(spans[1:]):
        if (function := functions.get(opener.strip())) is not None:
            body_ids = tokenizer.encode(body.strip("\n"), add_special_tokens=False)
            step = tokens.encode(function, body_ids)
            ids += step
            labels += step if is_target else [IGNORED] * len(step)
    return ids, labels


def warmed_up_nano(
    *, updates: int = 150, batch_size: int = 32, learning_rate: float = 1e-3, seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Teach nano the functional tokens by fine-tuning it on annotated solutions of the teacher's.

    Args:
        updates: of AdamW, with a learning rate that falls linearly to 0.
        batch_size: solutions of an update.
        learning_rate: of the first update.
        seed: decides the solutions.
    """
    model, tokenizer = load_nano()
    grammar = Grammar.default()
    tokens = FunctionalTokens.add(tokenizer, grammar)
    initialize_token_embeddings(model, tokenizer, tokens)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    rng = Random(seed)
    for _ in range(updates):
        batch = [
            annotate(write_trace(training_expression(rng), rng, grammar), tokenizer, tokens)
            for _ in range(batch_size)
        ]
        width = max(len(ids) for ids, _ in batch)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval(), tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save both where transformers' ``from_pretrained`` finds them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
