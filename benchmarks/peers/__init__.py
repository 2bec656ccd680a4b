"""Benchmarks against named peers: `python -m benchmarks.peers.NAME --help`; docs/PERFORMANCE.md has their figures."""
