"""Adapters with the interface of scikit-learn."""
