"""Mathematical answers: read what was written, compare exactly where that is certain, else by
math-verify in a worker process."""

from rftt.verifiers.extraction import boxed as boxed
from rftt.verifiers.math.verifier import MathVerifier as MathVerifier
