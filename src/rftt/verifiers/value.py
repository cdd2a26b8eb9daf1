"""A value model, and the verifier made of one: how good a state is, solved or not."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from rftt.files import atomic_write
from rftt.interfaces import State, Verdict, Verifier
from rftt.verifiers.model_calls import batches, context_length, right_padded, scoring
from rftt.verifiers.model_verdicts import ModelVerifier, Unscored

Link = Literal["identity", "logistic"]
"""How a value is made of the head's output: it is the value, or its logit, for values in [0, 1]."""

_HEAD_FILE: Final = "value_head.safetensors"
_CONFIG_FILE: Final = "value_head.json"


class ValueHead(nn.Module):
    """A linear layer from hidden states to numbers, computed in single precision.

    It begins at 0 for every state, so that a policy's first advantages are its rewards and not the
    noise of a random head.

    Args:
        size: of the hidden states.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Float[Tensor, "*places size"]) -> Float[Tensor, "*places"]:
        """Return a number for each hidden state, in float32 under autocast too."""
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ self.weight.float() + self.bias.float()


class ValueModel(nn.Module):
    """A transformer without its language-model head, and a value head.

    Args:
        body: gives ``last_hidden_state``, as a model of ``AutoModel`` or the ``base_model`` of one for
            causal language modelling.
        link: how values are made of the head's output.
        size: of the body's hidden states; default what its config says.
    """

    def __init__(self, body: nn.Module, *, link: Link = "identity", size: int | None = None) -> None:
        super().__init__()
        if link not in ("identity", "logistic"):
            raise ValueError(f"link must be 'identity' or 'logistic', not {link!r}")
        self.body = body
        self.link: Link = link
        self.head = ValueHead(_hidden_size(body) if size is None else size)

    @classmethod
    def of_causal_lm(cls, model: Any, *, link: Link = "identity") -> ValueModel:
        """Return a value model whose body is a copy of a causal language model's, with adapters of PEFT
        merged in. All its parameters are trained."""
        model = copy.deepcopy(model)
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        return cls(model.base_model.requires_grad_(True), link=link)

    @property
    def device(self) -> torch.device:
        """Return the device of the head."""
        return self.head.weight.device

    def forward(
        self,
        ids: Int64[Tensor, "batch tokens"],
        attention_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens"]:
        """Return at each place the value of the state that its id leads to; at padding, any number.

        Args:
            ids: right-padded sequences.
            attention_mask: which places hold a token; ``None`` for all.
        """
        return self.from_outputs(self.outputs(ids, attention_mask))

    def from_outputs(self, outputs: Float[Tensor, "*places"]) -> Float[Tensor, "*places"]:
        """Return the values that outputs of the head stand for."""
        return outputs.sigmoid() if self.link == "logistic" else outputs

    def outputs(
        self,
        ids: Int64[Tensor, "batch tokens"],
        attention_mask: Any = None,
        position_ids: Int64[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens"]:
        """Return the head's outputs, before the link.

        Args:
            ids: as in :meth:`forward`.
            attention_mask: as in :meth:`forward`, or a mask of pairs of places as the body takes it.
            position_ids: needed with a mask of pairs.
        """
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        if position_ids is None:
            mask = mask.long()
            position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.body(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=False
        )
        values: Tensor = self.head(output.last_hidden_state)
        return values

    def save_pretrained(self, path: Path | str) -> None:
        """Write a folder: the body as transformers does, the head as safetensors."""
        with atomic_write(path) as folder:
            save: Any = self.body.save_pretrained
            save(folder)
            tensors = {n: t.detach().cpu().contiguous() for n, t in self.head.state_dict().items()}
            save_file(tensors, folder / _HEAD_FILE)
            (folder / _CONFIG_FILE).write_text(json.dumps({"link": self.link}), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, path: Path | str, *, dtype: torch.dtype = torch.float32) -> ValueModel:
        """Load what :meth:`save_pretrained` wrote, in evaluation mode. Nothing is unpickled.

        Args:
            path: the folder.
            dtype: of the body's weights; the head's are float32.

        Raises:
            FileNotFoundError: if there is no value head in the folder.
        """
        folder = Path(path)
        if not (folder / _HEAD_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no {_HEAD_FILE}: give a folder written by ValueModel.save_pretrained; "
                "of a language model make a value model by ValueModel.of_causal_lm"
            )
        link = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))["link"]
        body = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        head = load_file(folder / _HEAD_FILE)
        model = cls(body, link=link, size=len(head["weight"]))
        model.head.load_state_dict(head)
        return model.eval()


def _hidden_size(body: nn.Module) -> int:
    config: Any = getattr(body, "config", None)
    if config is None:
        raise ValueError(f"{type(body).__name__} has no config: pass the size of its hidden states")
    # Models of text and images keep it one level down.
    return int(config.get_text_config().hidden_size)


class ValueVerifier(ModelVerifier):
    """Scores states, complete or partial, by a value model.

    The score is the value at the end of a state, and a step's score is the value at the end of that
    step, so that the last step's is the score. At the question there are no steps, and the score is the
    value of the question.

    Nothing is read from a gold answer. A verdict does not depend on what shares the call, but for the
    rounding of batched kernels. A state is abstained from if it has more ids than the body takes, or if
    a value is not finite; both are counted in ``abstained`` and logged.

    Args:
        model: gives the values. Other threads may judge with it at the same time.
        context: the ids of a state, such as the ``context`` of the policy that the model was trained
            with. The ids of the steps must follow those of the question.
        answers: a verifier that extracts answers and compares them; its scores are not used. Without
            it there is no answer, and answers are compared as texts.
        batch_tokens: most places in one forward pass, padding included; a longer state has a pass
            of its own.
    """

    def __init__(
        self,
        model: ValueModel,
        context: Callable[[State], Sequence[int]],
        *,
        answers: Verifier | None = None,
        batch_tokens: int = 16384,
    ) -> None:
        super().__init__(answers)
        self.model = model
        self.context = context
        self.batch_tokens = batch_tokens

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "link": self.model.link,
            "context": self.context,
            "answers": self.answers,
        }

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        return [
            self._verdict(state, answer, values)
            for state, answer, values in zip(
                states, self._answers(states), self.values(states), strict=True
            )
        ]

    def _verdict(self, state: State, answer: str | None, values: Sequence[float] | Unscored) -> Verdict:
        if isinstance(values, Unscored):
            return self._abstain(state, answer, values)
        return Verdict(values[-1], answer, step_scores=tuple(values[1:]) or None)

    def values(self, states: Sequence[State]) -> list[Sequence[float] | Unscored]:
        """Return for each state the value of its question and that after each of its steps, or why
        there are none."""
        contexts = [tuple(self.context(state)) for state in states]
        places = [_ends(state, ids) for state, ids in zip(states, contexts, strict=True)]
        most = context_length(self.model.body)
        fits = [n for n, ids in enumerate(contexts) if most is None or len(ids) <= most]
        result: list[Sequence[float] | Unscored] = [
            Unscored(f"the state has {len(ids)} ids, and the value model takes {most}")
            for ids in contexts
        ]
        for batch in batches([len(contexts[n]) for n in fits], self.batch_tokens):
            numbers = [fits[n] for n in batch]
            ids, mask = right_padded([contexts[n] for n in numbers], self.model.device)
            with scoring(self.model):
                values = self.model(ids, mask).cpu()
            for row, n in zip(values, numbers, strict=True):
                result[n] = _finite(row[places[n]].tolist())
        return result


def _finite(values: list[float]) -> list[float] | Unscored:
    for place, value in enumerate(values):
        if not math.isfinite(value):
            where = f"step {place - 1}" if place else "the question"
            return Unscored(f"the value after {where} is {value}, not a finite number")
    return values


def _ends(state: State, ids: Sequence[int]) -> list[int]:
    """Return the place of the last id of the question and of each step."""
    lengths = [len(step.ids) for step in state.steps]
    question = len(ids) - sum(lengths)
    if question < 1:
        raise ValueError(
            f"problem {state.problem.id!r}: its context has {len(ids)} ids and its steps have "
            f"{sum(lengths)}; a value is read after at least one id of the question"
        )
    ends = [question - 1]
    for length in lengths:
        ends.append(ends[-1] + length)
    return ends
