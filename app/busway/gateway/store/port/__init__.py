"""The port to the durable store: operations, commits, reader."""
