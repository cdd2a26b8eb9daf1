"""Fit pages that are also read in the repository to the built site."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
_ROLE = re.compile(r":(?:mod|class|func|meth|attr|data):<code>~?([^<]+)</code>")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Point links that leave ``docs`` to the repository; without a ``repo_url``, keep text and path."""

    def outside(link: re.Match[str]) -> str:
        text, path = link.groups()
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return f"{text} (`{path}`)"

    return _OUTSIDE.sub(outside, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles of docstrings, such as ``:class:``, as the name that they hold."""
    return _ROLE.sub(r"<code>\1</code>", html)
