"""Shared foundation: files, command line, settings, error texts, log, progress and pages; imports no other package."""
