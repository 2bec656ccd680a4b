"""Label pictures by clicking: `launch.py label`."""
