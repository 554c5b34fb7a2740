"""Executor of Python handlers: `host` runs in the gateway, `child` in the workers, `wire` in both."""
