"""Finite reasoning problems of which everything is known: the steps, their probabilities, their worth.

They cost nothing to sample and their optimum is known, so a strategy can be held against the truth.
``tabular`` and ``problem`` need nothing; ``strategies``, which makes such problems up, needs hypothesis.
"""
