"""Cases that hypothesis draws."""

# Says what to install if hypothesis is missing.
import rftt.testing.finite.strategies  # noqa: F401
