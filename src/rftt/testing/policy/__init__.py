"""The contract of a policy: :func:`~rftt.testing.policy.check.check_policy`."""
