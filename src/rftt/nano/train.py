"""Train nano from scratch: ``python -m rftt.nano.train --output DIR``.

About an hour on two cores. A killed run started again with the same arguments resumes from
its last checkpoint. The shipped checkpoint was made with the default arguments.
"""

from __future__ import annotations

import argparse
import math
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Final

import lightning
import torch
from attrs import frozen
from jaxtyping import Int64
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rftt.nano.teacher import training_expression, write_trace
from rftt.nano.tokenizer import build_tokenizer
from rftt.tokens.grammar import Grammar

IGNORED: Final = -100
"""The label that transformers' loss leaves out."""

Batch = dict[str, Int64[Tensor, "batch tokens"]]


@frozen
class TraceBatches(Dataset[Batch]):
    """Batches of traces. Batch ``i`` is a function of (seed, i), whenever and wherever it is made.

    Attributes:
        tokenizer: encodes the traces.
        grammar: holds the functions' descriptions.
        batches: number of batches.
        batch_size: traces in a batch.
        seed: of the random stream.
        reword: whether prompts come in many wordings.
        batches_per_pool: batches whose traces are sorted by length together, which keeps padding low.
    """

    tokenizer: PreTrainedTokenizerFast
    grammar: Grammar
    batches: int
    batch_size: int
    seed: int
    reword: bool
    batches_per_pool: int = 16

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        pool, place = divmod(index, self.batches_per_pool)
        return _make_pool(self, pool)[place]


@lru_cache(maxsize=1)
def _make_pool(data: TraceBatches, number: int) -> list[Batch]:
    rng = Random(f"nano/{data.seed}/{number}")
    traces = []
    for _ in range(data.batches_per_pool * data.batch_size):
        ids: list[int] = []
        labels: list[int] = []
        trace = write_trace(training_expression(rng), rng, data.grammar, reword=data.reword)
        for text, is_target in trace:
            new = data.tokenizer.encode(text, add_special_tokens=False)
            ids += new
            labels += new if is_target else [IGNORED] * len(new)
        traces.append((ids, labels))
    traces.sort(key=lambda pair: len(pair[0]))
    batches = []
    for start in range(0, len(traces), data.batch_size):
        batch = traces[start : start + data.batch_size]
        width = len(batch[-1][0])
        pad = data.tokenizer.pad_token_id
        batches.append(
            {
                "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch]),
                "labels": torch.tensor([la + [IGNORED] * (width - len(la)) for _, la in batch]),
            }
        )
    rng.shuffle(batches)
    return batches


class NanoTraining(lightning.LightningModule):
    """Trains on the next token, with AdamW and a cosine schedule after a linear warm-up.

    Args:
        model: what is trained.
        learning_rate: at the end of the warm-up.
        steps: updates in all.
    """

    def __init__(self, model: LlamaForCausalLM, learning_rate: float, steps: int) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        warmup_steps = 100

        def scale(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def nano_config(vocab_size: int) -> LlamaConfig:
    """Return the shape of nano: a Llama of four layers, about 1.3 million parameters."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        num_hidden_layers=4,
        intermediate_size=448,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )


def main() -> None:
    """Train nano and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=4000, help="updates on prompts as they are")
    parser.add_argument(
        "--reword-steps", type=int, default=1200, help="then, on prompts in many wordings"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="traces in a batch")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    lightning.seed_everything(arguments.seed)
    grammar = Grammar.default()
    tokenizer = build_tokenizer(grammar)
    model = LlamaForCausalLM(nano_config(len(tokenizer)))
    # First what the functions are; then, because functional tokens will be a shorter way to ask for
    # them, to follow prompts that are not worded or placed as they were.
    for phase, steps, learning_rate, reword in (
        ("training", arguments.steps, 2e-3, False),
        ("rewording", arguments.reword_steps, 1e-3, True),
    ):
        seed = arguments.seed + 1000 * reword
        batches = TraceBatches(tokenizer, grammar, steps, arguments.batch_size, seed, reword)
        folder = arguments.output / phase
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=1,
            max_steps=steps,
            gradient_clip_val=1.0,
            logger=CSVLogger(arguments.output, name=phase, version=""),
            callbacks=[
                ModelCheckpoint(folder, save_last=True, every_n_train_steps=200),
                TQDMProgressBar(),
            ],
            log_every_n_steps=20,
        )
        last = folder / "last.ckpt"
        trainer.fit(
            NanoTraining(model, learning_rate, steps),
            DataLoader(batches, batch_size=None, shuffle=False),
            ckpt_path=str(last) if last.exists() else None,
        )
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
