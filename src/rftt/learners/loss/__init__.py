"""Parts of a policy-gradient loss: ratios, objectives, aggregations, KL. Pure functions on tensors."""
