"""The gateway. Private: code outside Busway must not import it."""
