"""Who may do what: keys, scopes, tickets, origins and the loopback rule, without FastAPI."""
