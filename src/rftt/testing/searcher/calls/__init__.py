"""Calls of a strategy: forwarded, limited in time, watched."""
