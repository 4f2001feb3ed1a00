"""The worker: a supervisor without torch, a zygote with torch, and trial children forked from it.

`python -m archsearch.worker` is what a trial pod runs; the environment and exit codes are in `archsearch.spec.names`.
"""
