"""Choose one answer from a tree."""
