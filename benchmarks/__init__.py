"""Benchmarks: `peers` against named peers, `study` and `faults` for docs/results/."""
