"""Evaluation: accuracy without a look at gold answers, its intervals, and strategies side by side."""
