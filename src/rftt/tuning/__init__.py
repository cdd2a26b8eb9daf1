"""Warm-up data and the Lightning module that composes policy, searcher, verifier and learner."""
