"""Adapters without training: closed forms of the support features."""
