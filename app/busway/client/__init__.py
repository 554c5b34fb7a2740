"""The Python clients. They need httpx, websockets and msgspec, and nothing of the gateway."""
