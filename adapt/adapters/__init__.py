"""Adapters: classifiers from a few labelled examples on the embeddings of a frozen checkpoint, one method per file."""
