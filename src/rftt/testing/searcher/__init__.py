"""The contract of a search strategy: :func:`~rftt.testing.searcher.check.check_searcher`.

Needs hypothesis: ``pip install 'rftt[contract]'``.
"""

# Says what to install if hypothesis is missing.
import rftt.testing.finite.strategies  # noqa: F401
