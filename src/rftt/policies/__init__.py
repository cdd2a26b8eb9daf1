"""How a state becomes tokens (policies), and how tokens are produced (samplers)."""
