"""What a model says of given tokens: log-probabilities, entropies, hidden states, each prefix once."""
