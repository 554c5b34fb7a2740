"""From a request body to committed events and the runs they start."""
