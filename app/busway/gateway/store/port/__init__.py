"""The ports of the store: operations, commits and reader."""
