"""nano's training batches are a function of the seed and the number of the batch."""

from __future__ import annotations

import torch

from rftt import Grammar
from rftt.nano.tokenizer import build_tokenizer
from rftt.nano.train import IGNORED, TraceBatches

TOKENIZER = build_tokenizer(Grammar.default())


def _batches(seed: int) -> TraceBatches:
    return TraceBatches(TOKENIZER, Grammar.default(), 4, 3, seed, reword=False, batches_per_pool=2)


def test_a_batch_is_the_same_in_whatever_order_it_is_made() -> None:
    forward = [_batches(0)[i] for i in range(4)]
    backward = [_batches(0)[i] for i in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("input_ids", "labels"))
    assert not torch.equal(forward[0]["input_ids"][:, :5], _batches(1)[0]["input_ids"][:, :5])


def test_labels_are_the_ids_of_targets_alone() -> None:
    batch = _batches(0)[0]
    ids, labels = batch["input_ids"], batch["labels"]
    assert ids.shape == labels.shape
    assert len(ids) == 3
    is_target = labels != IGNORED
    assert torch.equal(ids[is_target], labels[is_target])
    assert not is_target[:, 0].any(), "a question is no target"
    assert not is_target[ids == TOKENIZER.pad_token_id].any()
    for sequence, targets in zip(ids, is_target, strict=True):
        last = int((sequence != TOKENIZER.pad_token_id).nonzero().max())
        assert targets[last], "a trace ends with a target"
