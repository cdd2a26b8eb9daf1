"""The contract of a verifier: :func:`~rftt.testing.verifier.check.check_verifier`."""
