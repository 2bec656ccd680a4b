"""Sweeps of the study in docs/results/study.md; `python -m benchmarks.study.tables NAME` runs one."""
