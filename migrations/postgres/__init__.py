"""The migrations of PostgreSQL."""
