"""Baselines without any pretraining, evaluated on the same support sets and queries as a checkpoint."""
