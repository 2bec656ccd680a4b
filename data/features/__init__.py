"""Features of any encoder, computed once and stored in files."""
