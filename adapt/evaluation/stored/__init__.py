"""Evaluation of stored features, without a checkpoint."""
