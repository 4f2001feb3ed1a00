"""What several test suites share; `tests` is on the path, so `from support.x import y` works anywhere."""
