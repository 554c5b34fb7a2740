"""I/O-bound: the handler waits for the network. In the thread pool, many attempts wait at once.

Publish: busway publish service.check --data '{"host": "127.0.0.1", "port": 8000}'
"""

import socket
import time

from busway import Event, handler


@handler("service.check", pool="thread", timeout=10, max_attempts=2)
def check_service(event: Event) -> dict[str, object]:
    """Check whether a TCP port accepts connections, and how fast."""
    address = (event.data["host"], event.data["port"])
    begin = time.perf_counter()
    try:
        with socket.create_connection(address, timeout=3):
            return {"open": True, "milliseconds": round((time.perf_counter() - begin) * 1000, 2)}
    except OSError as problem:
        return {"open": False, "reason": str(problem)}
