"""Finite problems of which everything is known, and contracts that hold a part to its promises.

The public names are listed in ``__init__.pyi`` and imported when they are first used, because those
that make things up, and ``check_searcher``, need hypothesis: ``pip install 'rftt[contract]'``. A finite
problem, ``check_learner``, ``check_policy`` and ``check_verifier`` do without.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
