"""Servers that tests start themselves, from development wheels."""
