"""Which run starts next, and where."""
