"""Studies of captions that are wrong: their estimate, and what they do to training."""
