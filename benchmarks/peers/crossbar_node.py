"""A Crossbar.io node: its configuration, and the WAMP messages of its clients.

One router worker with one web transport, as in the documentation's examples: a WebSocket for WAMP, and
the HTTP publisher service. The WebSocket's options are the documentation's production settings,
without pings, which the benchmark's clients would not answer.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import running
from benchmarks.listening import Step, opened, text_frame
from benchmarks.load import post
from benchmarks.row import Missing

REALM = "realm1"
TOPIC = "bench.noop"
PROTOCOL = "wamp.2.json"
WEBSOCKET = {
    "enable_webstatus": False,
    "max_frame_size": 1048576,
    "max_message_size": 1048576,
    "auto_fragment_size": 65536,
    "fail_by_drop": True,
    "open_handshake_timeout": 2500,
    "close_handshake_timeout": 1000,
}
EVENT = b"[36,"  # the beginning of each message of a subscription
HELLO = text_frame(json.dumps([1, REALM, {"roles": {"subscriber": {}, "publisher": {}}}]))
JOINED = (Step(b"\r\n\r\n", HELLO), Step(b"[2,"))
SUBSCRIBED = (
    Step(b"\r\n\r\n", HELLO),
    Step(b"[2,", text_frame(json.dumps([32, 1, {}, TOPIC]))),
    Step(b"[33,1,"),
)


def publication(number: int, argument: object) -> bytes:
    """Return the frame that publishes one event and asks for no acknowledgement."""
    return text_frame(json.dumps([16, number, {}, TOPIC, [argument]], separators=(",", ":")))


@contextlib.contextmanager
def node() -> Iterator[int]:
    """A running node; yields its port, with the paths `/ws` and `/publish`.

    Raises:
        Missing: it cannot be installed or does not start.
    """
    interpreter = running.python("crossbar", "crossbar")
    number = running.port()
    with running.folder() as place:
        (place / "config.json").write_text(json.dumps(_config(number)))
        command = [str(Path(interpreter).parent / "crossbar"), "start", f"--cbdir={place}", "--loglevel=warn"]
        with running.running(command, f"http://127.0.0.1:{number}/"):
            _await_paths(number)
            yield number


def _await_paths(number: int) -> None:
    """Wait for the paths: the transport responds before they exist, and they appear one after another."""
    end = time.monotonic() + running.PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            opened(number, "/ws", JOINED, PROTOCOL).close()
            post(f"http://127.0.0.1:{number}/publish", json.dumps({"topic": TOPIC, "args": []}))
            return
        time.sleep(0.05)
    raise Missing("its paths did not answer")


def _config(number: int) -> dict[str, Any]:
    everything = {"call": True, "register": True, "publish": True, "subscribe": True}
    permission = {"uri": "", "match": "prefix", "allow": everything, "cache": True}
    permission["disclose"] = {"caller": False, "publisher": False}
    roles = [{"name": "anonymous", "permissions": [permission]}]
    paths = {
        "/": {"type": "static", "directory": "."},
        "ws": {"type": "websocket", "options": WEBSOCKET},
        "publish": {"type": "publisher", "realm": REALM, "role": "anonymous"},
    }
    endpoint = {"type": "tcp", "port": number, "interface": "127.0.0.1", "backlog": 1024}
    router = {
        "type": "router",
        "realms": [{"name": REALM, "roles": roles}],
        "transports": [{"type": "web", "endpoint": endpoint, "paths": paths}],
    }
    return {"version": 2, "controller": {}, "workers": [router]}
