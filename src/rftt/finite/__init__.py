"""Finite reasoning problems with everything known: what may be said, how likely, what it is worth.

They cost nothing to sample and their optimum is known, so a strategy can be held against the truth.
``tabular`` and ``problem`` need nothing; ``strategies``, which makes such problems up, needs hypothesis.
"""
