"""Training: warm-up data, and the Lightning module that composes the parts."""
