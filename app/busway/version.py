"""The version of Busway, for the package, the gateway and the documents."""

__version__ = "0.1.0"
