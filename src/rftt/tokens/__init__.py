"""Functions, the grammar over them, and the tokens that stand for them."""
