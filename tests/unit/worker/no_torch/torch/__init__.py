"""Stands before the real torch where a test has no use for it."""

raise ImportError("no torch here")
