"""Whole searches of problems of which everything is known."""
