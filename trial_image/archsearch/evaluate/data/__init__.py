"""Data sets by name, from packages and from disk. Nothing is ever downloaded."""

from archsearch.evaluate.data.base import Arrays, DataSet, Scaling
from archsearch.evaluate.data.catalogue import data_set, kind_of, names

__all__ = ["Arrays", "DataSet", "Scaling", "data_set", "kind_of", "names"]
