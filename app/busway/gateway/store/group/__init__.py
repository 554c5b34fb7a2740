"""Group commit: queues, batches and the committer process."""
