"""Submission targets: each turns tasks into files and commands."""
