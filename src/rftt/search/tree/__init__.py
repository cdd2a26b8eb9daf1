"""The search tree, and trees in files, tables and made of other trees."""
