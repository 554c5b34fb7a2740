"""The gateway. Private: nothing outside this package may rely on it."""
