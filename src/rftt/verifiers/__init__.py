"""Verifiers: judge solutions and compare answers."""
