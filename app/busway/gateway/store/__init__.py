"""The durable store: ports, group commit with its committer process, and the SQLite driver."""
