"""Seeds of the random streams of a search, each a function of a text."""

from __future__ import annotations

import hashlib


def seed_from(text: str) -> int:
    """Return 63 bits that depend on all of a text, in any process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
