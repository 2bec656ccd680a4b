"""The study of docs/results/study.md: does the context objective help at small scale?"""
