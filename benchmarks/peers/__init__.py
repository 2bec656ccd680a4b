"""Benchmarks against named peers: `python -m benchmarks.peers.NAME --help`; figures: docs/results/performance.md."""
