"""The main job: the whole loop on nano, from problems to a better model."""
