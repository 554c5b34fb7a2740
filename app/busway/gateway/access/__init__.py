"""Access control without FastAPI: API keys, scopes, tickets, origins and the loopback rule."""
