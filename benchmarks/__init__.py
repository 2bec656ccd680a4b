"""Benchmarks: `peers` against named peers, `study` for docs/STUDY.md, `faults` for docs/RELIABILITY.md."""
