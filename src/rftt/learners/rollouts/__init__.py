"""From search trees to token sequences: which rollouts are learned from, and how they are laid out."""
