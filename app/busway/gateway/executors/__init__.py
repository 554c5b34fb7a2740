"""The executors carry out attempts: handler code in child processes, and events that are sent to URLs."""
