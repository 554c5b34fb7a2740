"""The door: sockets, HTTP and WebSocket protocols."""
