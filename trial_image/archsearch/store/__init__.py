"""Object stores: a directory or a bucket of any S3-compatible service, with one small set of operations."""

from __future__ import annotations

from archsearch.store.base import Credentials, KeyMissing, ObjectInfo, Store
from archsearch.store.location import open_at, open_store, split_key

__all__ = ["Credentials", "KeyMissing", "ObjectInfo", "Store", "open_at", "open_store", "split_key"]
