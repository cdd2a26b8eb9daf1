"""Property checks that anyone can run on a search strategy: :func:`check_searcher`.

Needs hypothesis: ``pip install 'rftt[contract]'``.
"""

# First, because it says what to install if hypothesis is missing.
import rftt.finite.strategies  # noqa: F401
from rftt.search.contract.check import check_searcher
from rftt.search.contract.promises import PROMISES, ContractViolation
from rftt.search.contract.replies import trees

__all__ = ["PROMISES", "ContractViolation", "check_searcher", "trees"]
