"""Fault injection: runs of launch.py that are killed, preempted, and deprived of disk and data."""
