"""The version of Busway."""

__version__ = "0.1.0"
