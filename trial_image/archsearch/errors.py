"""Errors that a person can act on. The command line prints their text alone; anything else is a bug: a traceback."""

from __future__ import annotations


class ArchsearchError(Exception):
    """Base of every error that archsearch raises on purpose. The text names the thing, the value and the remedy."""


class UserError(ArchsearchError):
    """What the user gave cannot be used (a manifest, an architecture, a data set, code that does not import)."""


class StoreError(ArchsearchError):
    """The object store cannot be used: unreachable, no such bucket, refused keys, or unsafe for concurrent writers."""


class StoreUnavailable(StoreError):
    """The store did not answer now; the same request may succeed later."""


class Fenced(ArchsearchError):
    """Another driver has claimed a higher epoch of this ledger; this one must stop at once."""


class NonDeterministic(ArchsearchError):
    """A replayed strategy asked for something else than the ledger recorded."""


class BadMetric(ArchsearchError):
    """A trial's metric is missing, NaN, infinite or no number: the failure class badMetric."""


class PeerLost(ArchsearchError):
    """The other processes of a trial of several pods cannot be reached: this one's part of it has no future."""
