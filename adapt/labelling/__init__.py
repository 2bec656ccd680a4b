"""Labelling of unsorted pictures by a person: which pictures to label next."""
