"""Ports for servers that tests start, and start again on the same port."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def unused_port() -> int:
    """Return a port that is free, and that Linux gives to nobody who does not ask for it by number."""
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(told.read_text().split()[0]) if told.exists() else 32768
    while True:
        port = random.randrange(10_000, max(first, 11_000))
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
