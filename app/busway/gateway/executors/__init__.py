"""The executors: they run user code in child processes."""
