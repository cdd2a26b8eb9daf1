"""Strategies that advance many paths together: beams, frontiers, particles."""
