"""The ledger: one append-only log of an experiment, in numbered segments below `ledger/` of its store.

A segment's number is claimed by a conditional write, so of two drivers one always loses, finds the other's higher epoch
in the number that it wanted, and stops. Full groups of 16 segments are merged into one, groups of those again, and so
on.
"""

from __future__ import annotations

from archsearch_strategies.ledger.reader import LedgerReader, read_ledger
from archsearch_strategies.ledger.writer import Ledger, LedgerStats

__all__ = ["Ledger", "LedgerReader", "LedgerStats", "read_ledger"]
