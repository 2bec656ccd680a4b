"""Embeddings of images and texts: computed from a checkpoint, cached, and exported to files."""
