"""The study of docs/STUDY.md: does the context objective help at small scale?"""
