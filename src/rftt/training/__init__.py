"""Training: warm-up data, the Lightning module that composes the parts, and evaluation."""
