"""Process environment, discovery of the other processes, and exit codes."""
