"""HTTP/1.1 and WebSocket connections: from the socket to an endpoint or to an ASGI application."""
