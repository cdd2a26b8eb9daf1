"""Trees to look at: as text, and as a page."""
