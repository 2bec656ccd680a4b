"""Alignment of frozen features: heads on stored features, or a text tower against stored image features."""
