"""Whether the machine at the other end of a connection still answers, as the kernel knows it."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

_TCP_INFO = struct.Struct("=3xB20xI28xI")  # of struct tcp_info: tcpi_probes, _unacked, _last_ack_recv


def is_there(sock: Any, seconds: float) -> bool:
    """Return whether the peer's kernel acknowledged all that was sent, or anything in these seconds.

    False where that is not known: then a pong that does not come decides.
    """
    if sys.platform != "linux" or sock is None:
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        probes, unacknowledged, silent = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return False
    return bool((probes == 0 and unacknowledged == 0) or silent / 1000 < seconds)
