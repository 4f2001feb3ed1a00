"""Search spaces of the literature, by name. Each module imports torch; entry points load it where it is needed."""
