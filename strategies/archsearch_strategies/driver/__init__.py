"""The driver: runs one strategy durably, over a ledger, with workers that lease trials."""
