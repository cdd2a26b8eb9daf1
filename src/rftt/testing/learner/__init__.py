"""The contract of a learner: :func:`~rftt.testing.learner.check.check_learner`."""
