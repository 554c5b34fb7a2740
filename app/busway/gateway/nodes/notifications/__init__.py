"""How nodes hear that there is something new to read: over PostgreSQL itself, or over NATS."""
