"""A batch through the whole of Busway: published at once, and all results of it taken from a WebSocket."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from websockets.sync.client import connect

from benchmarks.load import post
from benchmarks.row import Missing

SILENCE = 30.0  # seconds without a result after which none is expected any more


@dataclass(frozen=True)
class Batch:
    """What came of a batch; times as `time.time_ns` gives them.

    Attributes:
        accepted: when the 202 was there.
        ended: when the last result was there.
        values: what the handlers returned.
    """

    accepted: int
    ended: int
    values: list[Any]


def run_batch(url: str, type_: str, count: int) -> Batch:
    """Publish so many events of a type that has one handler, and wait for all results.

    Raises:
        Missing: an attempt failed, or results did not come.
    """
    address = url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
    with connect(address, max_size=None, max_queue=None, compression=None) as subscriber:
        subscriber.recv()  # subscribed
        post(url + "/v1/events", json.dumps([{"type": type_}] * count))
        accepted = ended = time.time_ns()
        values: list[Any] = []
        while len(values) < count:
            try:
                frame = subscriber.recv(timeout=SILENCE)
            except TimeoutError:
                raise Missing(f"only {len(values)} of {count} results came") from None
            ended = time.time_ns()
            for item in json.loads(frame)["items"]:
                if item["kind"] != "succeeded":
                    raise Missing(f"an attempt failed: {item['error']}")
                values.append(item["data"])
        return Batch(accepted, ended, values)
