"""Chat models are asked for the form that verifiers read; contexts and bodies are what they expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from rftt import (
    BestOfN,
    Budget,
    FunctionalPolicy,
    FunctionalTokens,
    GenerationRequest,
    Grammar,
    MathVerifier,
    Problem,
    PromptedPolicy,
    SearchConfig,
    State,
    TransformersSampler,
    load_policy,
    run_search,
)
from rftt.policies.chat import (
    SYSTEM,
    boxed_openings,
    chat_prompts,
    chat_question,
    plain_question,
    solution_text,
)
from rftt.tokens.control import control_ids, encode_question
from rftt.tokens.embeddings import initialize_token_embeddings
from tests.families import family_tokenizer
from tests.models import functional_policy, tiny_model, tokenizer

PROBLEM = Problem("p", "12+34", "46")
REQUESTS = [GenerationRequest(State(PROBLEM), seed, max_steps=3, max_tokens=60) for seed in range(60)]


def _chat_tokenizer() -> PreTrainedTokenizerBase:
    words = tokenizer()
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    return words


def _prompted(words: PreTrainedTokenizerBase | None = None, **settings: object) -> PromptedPolicy:
    words = words or tokenizer()
    sampler = TransformersSampler(tiny_model(), words)
    return PromptedPolicy(sampler, words, Grammar.default(), **settings)  # type: ignore[arg-type]


def test_no_body_is_empty() -> None:
    """A quarter of the steps of a real chat model were empty: it opens its turn with a new line."""
    policy = _prompted()
    words = policy.tokenizer
    (new_line,) = words.encode("\n", add_special_tokens=False)
    with torch.no_grad():
        weight = policy.sampler.model.get_output_embeddings().weight  # type: ignore[attr-defined]
        weight[new_line] = weight.mean(0)
    requests = [GenerationRequest(State(PROBLEM), s, until="step", max_tokens=9) for s in range(200)]
    steps = [step for completion in policy.extend(requests) for step in completion]
    assert all(step.text or step.truncated for step in steps)
    assert sum(step.ids[-1] == new_line and len(step.ids) > 1 for step in steps) > 3
    # What may come first is renormalised over what is allowed.
    context = policy.context(State(PROBLEM))
    for step in steps[:30]:
        start = [*context, *words.encode(policy.prompts[step.function], add_special_tokens=False)]
        with torch.no_grad():
            logits = policy.sampler.model(torch.tensor([start])).logits[0, -1]  # type: ignore[attr-defined]
        mask = policy.automaton.mask(torch.tensor([1]))[0]
        assert not mask[new_line]
        expected = logits.masked_fill(~mask, -torch.inf).log_softmax(0)[step.ids[0]]
        assert step.log_probs[0] == pytest.approx(float(expected), abs=1e-4)


def test_a_chat_models_answers_are_in_a_box(tmp_path: Path) -> None:
    """No answer of a real chat model was ever found: nothing asked for the form."""
    tiny_model().save_pretrained(tmp_path)
    _chat_tokenizer().save_pretrained(tmp_path)
    policy = load_policy(tmp_path, prompted=True, device="cpu", functions=["analysis", "direct_answer"])
    assert isinstance(policy, PromptedPolicy)
    assert SYSTEM in policy.question(PROBLEM)
    assert "\\boxed{" in SYSTEM
    config = SearchConfig(Budget(rollouts=8), max_depth=6, max_tokens=100)
    (tree,) = run_search([PROBLEM], BestOfN(), policy, MathVerifier(), config)
    answers = [step for step in tree.step if step is not None and step.function == "direct_answer"]
    assert len(answers) == 8
    for step in answers:
        assert step.text.startswith("\\boxed{")
        opening = len(policy.tokenizer.encode(" \\boxed{", add_special_tokens=False))
        assert step.action_mask[:opening] == (False,) * opening
        assert step.terminal
    # What is given takes the place of a default.
    other = load_policy(
        tmp_path, prompted=True, device="cpu", openings={}, prompts={"analysis": "first "},
        question=lambda problem: problem.question,
    )  # fmt: skip
    assert isinstance(other, PromptedPolicy)
    assert not other.openings
    assert other.prompts["analysis"] == "first "
    assert other.question(PROBLEM) == "12+34"


def test_examples_come_before_the_problem() -> None:
    prompts = chat_prompts(Grammar.default())
    assert set(prompts) == set(boxed_openings(Grammar.default())) | set(Grammar.default().functions)
    solution = solution_text(prompts, [("analysis", "add"), ("output", "\\boxed{3}")])
    assert solution == "Plan: add\nFinal answer: \\boxed{3}\n"
    with pytest.raises(ValueError, match="example: 'fly' has no prompt"):
        solution_text(prompts, [("fly", "")])
    asked = chat_question(_chat_tokenizer(), system="S", examples=[("1+2", solution)])(PROBLEM)
    assert asked == f"system:S\nuser:1+2\nassistant:{solution}\nuser:12+34\nassistant:"
    assert plain_question([("1+2", solution)])(PROBLEM) == f"1+2\n{solution}\n12+34\n"


def test_a_template_without_a_system_turn_gets_its_text_in_the_users() -> None:
    words = _chat_tokenizer()
    words.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + (words.chat_template or "")
    )
    assert chat_question(words, system="S")(PROBLEM) == "user:S\n\n12+34\nassistant:"


def test_a_model_without_a_template_gets_examples_as_text(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    policy = load_policy(
        tmp_path, prompted=True, device="cpu", examples=[("1+2", [("analysis", "so 3")])]
    )
    assert policy.question(PROBLEM) == "1+2\nplan the first step: so 3\n\n12+34\n"
    with pytest.raises(ValueError, match="examples and question"):
        load_policy(
            tmp_path,
            prompted=True,
            device="cpu",
            examples=[("1", [("analysis", "1")])],
            question=lambda p: p.question,
        )
    with pytest.raises(ValueError, match="examples: only a prompted policy takes that"):
        load_policy(tmp_path, device="cpu", examples=[("1", [("analysis", "1")])])


def test_every_end_of_text_of_the_generation_config_ends_a_body() -> None:
    """Llama 3 and Qwen list several."""
    model, words = tiny_model(), tokenizer()
    model.generation_config.eos_token_id = [words.eos_token_id, 9]
    policy = PromptedPolicy(TransformersSampler(model, words), words, Grammar.default())
    steps = [step for completion in policy.extend(REQUESTS) for step in completion]
    ended = [step for step in steps if 9 in step.ids]
    assert ended
    assert all(step.ids.index(9) == len(step.ids) - 1 and not step.truncated for step in ended)
    tokens = FunctionalTokens.add(words, Grammar.default())
    initialize_token_embeddings(model, words, tokens)
    functional = FunctionalPolicy(TransformersSampler(model, words), words, tokens)
    assert not functional.automaton.body_ids[9]


@pytest.mark.parametrize("kind", ["prompted", "functional"])
def test_no_body_holds_a_control_id(kind: str) -> None:
    """Ids such as those that open another turn were sampled like words."""
    policy = _prompted() if kind == "prompted" else functional_policy()
    control = control_ids(policy.tokenizer)
    assert len(control) >= 3
    steps = [step for completion in policy.extend(REQUESTS) for step in completion]
    assert len(steps) > 60
    for step in steps:
        body = step.ids[step.body_start : len(step.ids) - (not step.truncated)]
        assert not control.intersection(body)


def test_a_context_begins_as_the_tokenizer_begins_a_text() -> None:
    plain, qwen = tokenizer(), family_tokenizer("qwen2")
    assert encode_question(plain, "1+2") == tuple(plain.encode("1+2"))
    assert encode_question(qwen, "1+2") == tuple(qwen.encode("1+2"))
    words = _with_bos()
    bos = words.convert_tokens_to_ids("<bos>")
    assert words.encode("1+2")[0] == bos
    assert encode_question(words, "1+2") == tuple(words.encode("1+2"))
    # A template that writes it is not given another.
    assert encode_question(words, "<bos>1+2") == tuple(words.encode("1+2"))
    assert _prompted(words).context(State(PROBLEM))[0] == bos


def _with_bos() -> PreTrainedTokenizerBase:
    words = tokenizer()
    words.add_special_tokens({"bos_token": "<bos>"})
    bos = words.convert_tokens_to_ids("<bos>")
    words.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return words


class _Watched(TransformersSampler):
    """Fails if more is computed than the model's context holds."""

    def stream(self, automaton: object) -> object:  # type: ignore[override]
        stream = super().stream(automaton)  # type: ignore[arg-type]
        add = stream.add

        def watched(key: int, request: object) -> None:
            assert len(request.prompt) + request.max_tokens <= 64  # type: ignore[attr-defined]
            add(key, request)  # type: ignore[arg-type]

        stream.add = watched  # type: ignore[method-assign]
        return stream


@pytest.mark.parametrize("kind", ["prompted", "functional"])
def test_what_the_context_has_no_room_for_is_not_computed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A model was run past the end of its context, in silence or with an index error."""
    model, words = tiny_model(), tokenizer()
    model.config.max_position_embeddings = 64
    policy: FunctionalPolicy | PromptedPolicy
    if kind == "functional":
        tokens = FunctionalTokens.add(words, Grammar.default())
        initialize_token_embeddings(model, words, tokens)
        policy = FunctionalPolicy(_Watched(model, words), words, tokens)
    else:
        policy = PromptedPolicy(_Watched(model, words), words, Grammar.default())
    long = Problem("long", "+".join("1" * 40))
    states = [State(long), State(PROBLEM)]
    requests = [GenerationRequest(state, 7, max_tokens=200) for state in states]
    with caplog.at_level(logging.WARNING):
        (cut,), within = policy.extend(requests)
    assert cut.truncated
    assert cut.terminal
    assert not any(cut.action_mask)
    assert policy.grammar.violation([cut.function]) is None
    assert within[0].ids
    (message,) = [r.getMessage() for r in caplog.records if "'long'" in r.getMessage()]
    assert "a prompt of 8" in message
    assert "no room in the model's context of 64" in message
    assert [set(prior) for prior in policy.prior(states)] == [set(policy.prior([s])[0]) for s in states]


def test_a_search_without_an_answer_says_why(caplog: pytest.LogCaptureFixture) -> None:
    config = SearchConfig(Budget(rollouts=3), max_depth=3, max_tokens=30)
    run_search([PROBLEM], BestOfN(), _prompted(), MathVerifier(), config)
    (warning,) = [r for r in caplog.records if r.name == "rftt.search.answers.unanswered"]
    assert "none of 3 rollouts of 1 problems has an answer" in warning.getMessage()
    caplog.clear()
    answer: Mapping[str, str] = {"output": "\\boxed{4}", "direct_answer": "\\boxed{4}"}
    policy = _prompted(functions=["analysis", "direct_answer"], openings=answer)
    run_search([PROBLEM], BestOfN(), policy, MathVerifier(), config)
    assert not [r for r in caplog.records if r.name == "rftt.search.answers.unanswered"]
