"""Reasoning with functional tokens: policies, searchers, verifiers and learners that compose.

The public names are listed in ``__init__.pyi`` and imported when they are first used, so that
``import rftt`` is quick. Everything else is reached through its room, such as
:mod:`rftt.search.strategies`, :mod:`rftt.samplers` or :mod:`rftt.testing`.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("rftt")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
