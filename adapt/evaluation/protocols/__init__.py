"""Protocols beyond balanced, correctly labelled support sets: imbalance, label noise and unknown classes."""
