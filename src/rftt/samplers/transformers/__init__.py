"""Sampling from a transformers model, with continuous batching and a prefix cache."""
