"""The durable truth: the port (base), the committer process and the readers."""
