"""Policies: how a state becomes tokens."""
