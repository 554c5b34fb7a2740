"""The supervisor and everything that runs user code, in child processes."""
