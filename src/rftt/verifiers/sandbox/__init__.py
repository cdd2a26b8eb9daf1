"""Processes that the operating system locks down, for code that a model wrote. Linux alone."""
