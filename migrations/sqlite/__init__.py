"""The migrations of SQLite."""
