"""Record the outcome of an attempt in one transaction: run state, results, published events."""
