"""How trees become a better policy."""
