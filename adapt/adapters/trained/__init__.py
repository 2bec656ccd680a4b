"""Adapters that are trained on the support features: the baselines of the training-free ones."""
