"""Busway: durable events in, handlers in worker processes, live and resumable results out."""

__version__ = "0.1.0"
