"""Credit assignment: from search trees to an advantage and a weight for each step. Pure functions."""
