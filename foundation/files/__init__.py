"""Files that are written atomically or read line by line: JSON, CSV, checksums, locks and names."""
