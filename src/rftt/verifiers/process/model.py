"""A process reward model in this process: step scores of a transformers model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
)
from transformers.modeling_outputs import TokenClassifierOutput

from rftt.aggregation import Aggregation, minimum
from rftt.interfaces import Verifier
from rftt.verifiers.model_calls import batches, context_length, device_of, right_padded, scoring
from rftt.verifiers.model_verdicts import Unscored
from rftt.verifiers.process.formats import ProcessFormat, ScoredIds
from rftt.verifiers.process.verifier import ProcessVerifier, StepText, step_body


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """The architecture of ``Qwen/Qwen2.5-Math-PRM-7B``: Qwen2 with a head of two layers.

    The published model comes with code of its own. With this class its weights load without running it.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool | None = None
    ) -> TokenClassifierOutput:
        """Return logits of shape (sequences, ids, 2)."""
        hidden = self.model(input_ids, attention_mask=attention_mask, use_cache=use_cache)
        return TokenClassifierOutput(logits=self.score(hidden.last_hidden_state))


class ProcessRewardModel(ProcessVerifier):
    """Scores the steps of states, complete or partial, by a process reward model.

    All states of a call are scored in as few forward passes as ``batch_tokens`` allows. Scores are
    float32, whatever the model's type is. A verdict does not depend on what shares the call, but for
    the rounding of batched kernels. Nothing is read from a gold answer.

    Args:
        model: a causal language model or a token classifier, as the format says.
        tokenizer: the model's.
        format: how the model is shown a solution.
        aggregation: makes the state's score of those of its steps.
        answers: extracts and compares answers, such as :class:`~rftt.verifiers.math.MathVerifier`.
            Without it there is no answer, and answers are compared as texts.
        step_text: what the model is shown of a step: by default its body without its function.
        batch_tokens: most places in one forward pass, padding included; a longer state has a pass of
            its own.
        max_tokens: most ids of a state; a longer one is abstained from. Default what the model's config
            says.

    Raises:
        ValueError: if the tokenizer is not one for the format.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        format: ProcessFormat,
        *,
        aggregation: Aggregation = minimum,
        answers: Verifier | None = None,
        step_text: StepText = step_body,
        batch_tokens: int = 8192,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(
            tokenizer, format, aggregation=aggregation, answers=answers, step_text=step_text,
            max_tokens=context_length(model) if max_tokens is None else max_tokens,
        )  # fmt: skip
        self.model = model
        self.batch_tokens = batch_tokens

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        format: ProcessFormat,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> ProcessRewardModel:
        """Load a published model and its tokenizer. No code of the model's is run, and nothing is
        unpickled: weights are read from safetensors only.

        Args:
            path: a folder, or a name that transformers can find.
            format: how the model is shown a solution; it says which kind of model is loaded.
            dtype: of the weights; default the checkpoint's.
            device: where to put them.
            **settings: as in the constructor.

        Raises:
            OSError: if there are no safetensors.
            ValueError: if the checkpoint lacks weights of that kind of model.
        """
        model, loaded = _model_class(path, format).from_pretrained(
            path, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(
                f"{path} has no weights for {', '.join(missing[:4])}: it is no {format.head}, and "
                f"{type(format).__name__} needs one"
            )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        return cls(model.eval().to(device), tokenizer, format, **settings)

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {"model": self.model, **super().__fingerprint__()}

    def step_scores(self, solutions: Sequence[ScoredIds]) -> list[Sequence[float] | Unscored]:
        result: list[Sequence[float] | Unscored] = [()] * len(solutions)
        for numbers in batches([len(one.ids) for one in solutions], self.batch_tokens):
            scores = self._batch([solutions[n] for n in numbers])
            for number, of_steps in zip(numbers, scores, strict=True):
                result[number] = of_steps
        return result

    def _batch(self, solutions: Sequence[ScoredIds]) -> list[Sequence[float] | Unscored]:
        ids, mask = right_padded([one.ids for one in solutions], device_of(self.model))
        # An output layer can be as large as the body: logits are computed where some score is read.
        kept = sorted({place for one in solutions for place in one.places})
        settings = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            settings["logits_to_keep"] = torch.tensor(kept, device=ids.device)
        with scoring(self.model):
            output = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **settings)
            logits = output.logits[..., list(self._labels)].float()
        place_of = {place: n for n, place in enumerate(kept)} if settings else range(ids.shape[1])
        return [
            _scores(logits[row, [place_of[place] for place in one.places]])
            for row, one in enumerate(solutions)
        ]


def _model_class(path: Path | str, format: ProcessFormat) -> Any:
    if format.head == "language model":
        return AutoModelForCausalLM
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if Qwen2ForProcessRewardModel.__name__ in (config.architectures or ()):
        return Qwen2ForProcessRewardModel
    return AutoModelForTokenClassification


def _scores(logits: Tensor) -> Sequence[float] | Unscored:
    """Return the probability of the good label for each of some rows of two logits."""
    bad = (~logits.isfinite().all(1)).nonzero()
    if len(bad):
        step = int(bad[0])
        return Unscored(
            f"step {step} of {len(logits)}: the model's logits {logits[step].tolist()} are not finite"
        )
    probabilities: list[float] = logits.softmax(1)[:, 0].tolist()
    return probabilities
