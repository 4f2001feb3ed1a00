"""The driver's side of the lease protocol."""
