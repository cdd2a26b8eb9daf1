"""Trees, strategies, the engine that grows many trees at once, and choosing an answer."""
