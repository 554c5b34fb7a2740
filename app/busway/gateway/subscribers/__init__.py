"""The hub, the sessions and the shells that carry them."""
