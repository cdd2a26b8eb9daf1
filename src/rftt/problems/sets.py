r"""The fields of well-known data sets, as they are published.

``load_problems("gsm8k_test.jsonl", GSM8K)`` reads a file,
``load_dataset_problems("openai/gsm8k", GSM8K, name="main", split="test")`` the set on Hugging Face's
hub.
Other publications of a set may name its fields differently; ``attrs.evolve`` changes a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rftt.problems.fields import Fields
from rftt.problems.gold import after_hashes, last_boxed, whole_number, without_unit

MATH: Final = Fields(
    question="problem",
    answer="solution",
    gold=last_boxed,
    metadata={"level": "level", "subject": "type"},
)
r"""MATH (arXiv 2103.03874), 12,500 problems: gold is in the solution's last ``\boxed``. The level is a
text, ``Level 5``."""

MATH500: Final = Fields(question="problem", id="unique_id", metadata=("level", "subject"))
"""MATH-500 (arXiv 2305.20050), 500 test problems of MATH. The level is a number, ``5``."""

GSM8K: Final = Fields(gold=after_hashes)
"""GSM8K (arXiv 2110.14168): gold follows ``####`` at the end of the solution."""

AMC: Final = Fields(question="problem", gold=whole_number)
"""AMC 12 (``AI-MO/aimo-validation-amc``): whole numbers, published as ``27.0``."""

AIME: Final = Fields(question="problem", gold=whole_number)
"""AIME (``AI-MO/aimo-validation-aime``, ``HuggingFaceH4/aime_2024``, ``math-ai/aime25``): whole numbers
from 0 to 999, in places published as ``025``."""

OLYMPIADBENCH: Final = Fields(
    answer="final_answer",
    context="context",
    multiple="is_multiple_answer",
    metadata={"subject": "subfield", "answer_type": "answer_type", "unit": "unit", "error": "error"},
)
"""OlympiadBench (arXiv 2402.14008), open-ended problems (OE). The unit is not part of gold; ``error`` is
the tolerance that its authors allow."""

ASDIV: Final = Fields(
    context="body",
    gold=without_unit,
    metadata={"type": "solution_type", "formula": "formula", "published_answer": "answer"},
)
"""ASDiv (arXiv 2106.15772, ``EleutherAI/asdiv``): gold is ``9`` where ``9 (apples)`` is published."""

SVAMP: Final = Fields(
    question="Question", answer="Answer", id="ID", context="Body", gold=whole_number,
    metadata={"type": "Type", "equation": "Equation"},
)  # fmt: skip
"""SVAMP (arXiv 2103.07191, ``ChilleD/SVAMP``): numbers, published as ``145.0``."""

MAWPS: Final = Fields(question="input", answer="target", gold=whole_number)
"""MAWPS (N16-1136) as ToRA publishes its parts (AddSub, SingleOp and others): numbers, published as
``43.0``; a fraction is rounded there (``0.6666666667``)."""

MAWPS_ORIGINAL: Final = Fields(
    question="sQuestion", answer="lSolutions", id="iIndex", gold=whole_number,
    metadata={"equations": "lEquations"},
)  # fmt: skip
"""MAWPS in its authors' own files, JSON arrays: ``lSolutions`` is a list of one number."""

SETS: Final[Mapping[str, Fields]] = {
    "MATH": MATH,
    "MATH500": MATH500,
    "GSM8K": GSM8K,
    "AMC": AMC,
    "AIME": AIME,
    "OLYMPIADBENCH": OLYMPIADBENCH,
    "ASDIV": ASDIV,
    "SVAMP": SVAMP,
    "MAWPS": MAWPS,
    "MAWPS_ORIGINAL": MAWPS_ORIGINAL,
}


def sets_with_fields_of(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the sets all of whose fields a row has."""
    return [name for name, fields in SETS.items() if fields.needed <= row.keys()]
