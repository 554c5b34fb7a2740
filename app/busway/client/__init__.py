"""The Python clients. They need httpx, websockets and msgspec, and import nothing of the gateway."""
