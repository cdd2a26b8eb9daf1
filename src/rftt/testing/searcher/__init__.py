"""The contract of a search strategy: :func:`~rftt.testing.searcher.check.check_searcher`.

``calls`` holds one strategy under watch, ``cases`` what hypothesis draws, ``searches`` whole searches of
problems that are known. Needs hypothesis: ``pip install 'rftt[contract]'``.
"""
