"""Choose which run starts next, and in which pool."""
