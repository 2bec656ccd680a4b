"""Shared foundation: atomic writes, JSON, error text, log, progress and page templates; imports no other package."""
