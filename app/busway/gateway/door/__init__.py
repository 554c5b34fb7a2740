"""The door: HTTP/1.1 and WebSocket connections, from the socket to one endpoint or an ASGI application."""
