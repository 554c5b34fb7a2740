"""`httpx.AsyncClient` in a bare loop (uvloop). Requests are lines of JSON, as `once` takes them."""

from __future__ import annotations

import asyncio
import time

import httpx
import uvloop

from benchmarks.peers.answering import answer

_BODY = b'{"n":1}'
_HEADERS = {"content-type": "application/json", "ce-specversion": "1.0", "ce-type": "bench.hook"}


def once(url: str, deliveries: int, at_once: int) -> dict[str, float]:
    """Post a number of events and read the answers."""
    return uvloop.run(_send(url, deliveries, at_once))


async def _send(url: str, deliveries: int, at_once: int) -> dict[str, float]:
    left = iter(range(deliveries))
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(limits=limits) as client:

        async def work() -> None:
            for _ in left:
                response = await client.post(url, content=_BODY, headers=_HEADERS)
                response.raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return {"deliveries_per_s": deliveries / (time.perf_counter() - began)}


if __name__ == "__main__":
    answer(once)
