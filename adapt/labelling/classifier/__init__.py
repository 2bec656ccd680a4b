"""The classifier of a labelling session, which follows every label."""
