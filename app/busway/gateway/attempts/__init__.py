"""From an attempt's outcome to one transaction: run state, results, published events."""
