"""A value model, and the verifier made of one: how good a state is, solved or not."""

from __future__ import annotations

import copy
import json
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


class ValueVerifier(Verifier):
    """Scores states, complete or partial, by a value model.

    The score is the value at the end of a state, and a step's score is the value at the end of that
    step, so that the last step's is the score. At the question there are no steps, and the score is the
    value of the question.

    Nothing is read from a gold answer. A verdict does not depend on what shares the call, but for the
    rounding of batched kernels.

    Args:
        model: gives the values.
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
        self.model = model
        self.context = context
        self.answers = answers
        self.batch_tokens = batch_tokens

    def __fingerprint__(self) -> Mapping[str, Any]:
        return {
            "model": self.model,
            "link": self.model.link,
            "context": self.context,
            "answers": self.answers,
        }

    def judge(self, states: Sequence[State]) -> list[Verdict]:
        given = self.answers.judge(states) if self.answers is not None else [None] * len(states)
        return [
            Verdict(
                score=values[-1],
                answer=None if verdict is None else verdict.answer,
                step_scores=tuple(values[1:]) or None,
            )
            for values, verdict in zip(self.values(states), given, strict=True)
        ]

    def equivalent(self, a: str, b: str) -> bool | None:
        if self.answers is not None:
            return self.answers.equivalent(a, b)
        return super().equivalent(a, b)

    @torch.no_grad()
    def values(self, states: Sequence[State]) -> list[list[float]]:
        """Return for each state the value of its question, then that after each of its steps."""
        contexts = [tuple(self.context(state)) for state in states]
        places = [_ends(state, ids) for state, ids in zip(states, contexts, strict=True)]
        result: list[list[float]] = [[] for _ in states]
        training = self.model.training
        self.model.eval()
        try:
            for numbers in _batches([len(ids) for ids in contexts], self.batch_tokens):
                values = self._batch([contexts[n] for n in numbers])
                for row, n in zip(values, numbers, strict=True):
                    result[n] = row[places[n]].tolist()
        finally:
            self.model.train(training)
        return result

    def _batch(self, contexts: Sequence[tuple[int, ...]]) -> Float[Tensor, "batch tokens"]:
        width = max(map(len, contexts))
        ids = torch.tensor([[*some, *[0] * (width - len(some))] for some in contexts])
        mask = torch.tensor([[True] * len(some) + [False] * (width - len(some)) for some in contexts])
        device = self.model.device
        values: Tensor = self.model(ids.to(device), mask.to(device))
        return values.cpu()


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


def _batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Split the numbers of sequences into batches of similar length and at most ``most`` places."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if not batches or (len(batches[-1]) + 1) * lengths[number] > most:
            batches.append([])
        batches[-1].append(number)
    return batches
