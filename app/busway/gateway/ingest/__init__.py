"""Reads events from request bodies and stores them with the runs that they start."""
