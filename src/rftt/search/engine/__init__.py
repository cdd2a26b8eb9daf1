"""The engine: runs a strategy on many trees at once, and records what it did."""
