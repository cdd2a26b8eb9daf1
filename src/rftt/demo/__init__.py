"""The main job: the loop on nano, from problems to a better model."""
