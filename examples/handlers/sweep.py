"""Async: one attempt checks many ports at once, and one worker runs many such attempts.

Publish: busway publish ports.sweep --data '{"host": "127.0.0.1", "ports": [22, 80, 443, 8000]}'
"""

import asyncio

from busway import Event, handler


@handler("ports.sweep", timeout=30)
async def sweep_ports(event: Event) -> dict[str, list[int]]:
    """List the ports of a host that accept connections."""
    ports = event.data["ports"]
    answers = await asyncio.gather(*(is_open(event.data["host"], port) for port in ports))
    return {"open": [port for port, answer in zip(ports, answers, strict=True) if answer]}


async def is_open(host: str, port: int) -> bool:
    """Return whether a port accepts a connection within a second."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
