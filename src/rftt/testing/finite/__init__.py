"""Finite reasoning problems of which everything is known: the steps, their probabilities, their worth.

They cost nothing to sample and their optimum is known, so a strategy can be held against the truth.
``tabular`` and ``problem`` need nothing. ``model`` and ``spelled`` make of such a policy what a learner
can train, and ``gradient`` knows its policy gradient: they need torch. ``strategies``, which makes such
problems up, needs hypothesis.
"""
