"""Codecs: the forms in which requests carry events."""
