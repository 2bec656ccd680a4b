"""Sweeps of the study in docs/STUDY.md; `python -m benchmarks.study.tables NAME` runs one."""
