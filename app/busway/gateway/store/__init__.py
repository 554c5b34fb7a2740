"""The durable store: ports, group commit with its committer process, drivers for SQLite and PostgreSQL."""
