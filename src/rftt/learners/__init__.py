"""Learners: how search trees improve a policy."""
